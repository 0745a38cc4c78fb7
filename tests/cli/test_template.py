"""Templates: what each job runs, and that no value is ever read as code. What the shell makes of it is asked of the shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from manyhands.cli.template import Template
from manyhands.errors import UsageError

SHELLS = ["/bin/sh", *(path for path in [shutil.which("bash")] if path)]

NASTY = [
    *("", " ", "  a   b ", "-n", "--help", "-", "a\nb", "\n", "\t", "it's", '"', '"; exit 3; "', "'; exit 3; '", "$(exit 3)"),
    *("`exit 3`", "${x}", "$1", "$", "\\", "\\n", "a\\", "*", "?", "[a-z]", "~", "#", "# x", "!", "!!", "&", "| exit 3", "a;b"),
    *("{}", "{1}", "{a,b}", "}", ")", "esac", "EOF", "%s", "한글 파일", "é", os.fsdecode(b"\xff\xfe\x80"), "\x01\x7f", "\r"),
]


def args_of(template: str | Sequence[str], *values: str, sequence: int = 1, slot: int = 1) -> tuple[str | bytes, ...]:
    words = [template] if isinstance(template, str) else template
    return Template.parse(words).render(values, sequence, slot).args


def ran(args: Sequence[str | bytes]) -> bytes:
    """What a command prints; it must succeed and say nothing else."""
    done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, b""), (args, done)
    return done.stdout


def arguments(printed: bytes) -> list[bytes]:
    """The arguments that `printf '%s\\0'` was given."""
    return printed.split(b"\0")[:-1]


# ---- replacement strings ---------------------------------------------------------------------------------------------------

# As GNU parallel 20221122 prints them: value, {.}, {/}, {//}, {/.}
CHANGED_PATHS = [
    ("a", "a", "a", ".", "a"),
    ("a.b", "a", "a.b", ".", "a"),
    ("dir/a.b", "dir/a", "a.b", "dir", "a"),
    ("/abs/x.tar.gz", "/abs/x.tar", "x.tar.gz", "/abs", "x.tar"),
    ("/x", "/x", "x", "/", "x"),
    ("./y.c", "./y", "y.c", ".", "y"),
    ("d.d/f", "d.d/f", "f", "d.d", "f"),
    (".hid", "", ".hid", ".", ""),
    ("d/.hid", "d/", ".hid", "d", ""),
    ("a/", "a/", "", ".", ""),
    ("/", "/", "", "/", ""),
    ("", "", "", ".", ""),
    ("a.", "a", "a.", ".", "a"),
    ("..", ".", "..", ".", "."),
    (".", "", ".", ".", ""),
    ("a//b", "a//b", "b", "a", "b"),
    ("a/b/", "a/b/", "", "a", ""),
    ("x.y/", "x.y/", "", ".", ""),
    ("a.b.c/d", "a.b.c/d", "d", "a.b.c", "d"),
    ("//", "//", "", "/", ""),
    ("//x", "//x", "x", "/", "x"),
    ("a//", "a//", "", ".", ""),
    ("/a//b//", "/a//b//", "", "/a", ""),
    ("//a", "//a", "a", "/", "a"),
    ("a//b//c", "a//b//c", "c", "a//b", "c"),
    ("../x", "../x", "x", "..", "x"),
    ("/..", "/.", "..", "/", "."),
    ("a/.", "a/", ".", "a", ""),
    ("new\nline/a.b", "new\nline/a", "a.b", "new\nline", "a"),
]


@pytest.mark.parametrize(("value", "stem", "name", "folder", "name_stem"), CHANGED_PATHS)
def test_paths_are_taken_apart_as_gnu_parallel_does(value: str, stem: str, name: str, folder: str, name_stem: str) -> None:
    assert args_of("p {} {.} {/} {//} {/.}", value) == ("p", value, stem, name, folder, name_stem)


# template, values, arguments; as GNU parallel gives them
REPLACED = [
    ("p {}", ["a"], ["a"]),
    ("p", ["a"], ["a"]),
    ("p x", ["a", "b"], ["x", "a", "b"]),
    ("p {}", ["a", "b"], ["a", "b"]),
    ("p x{}y", ["a b"], ["xa by"]),
    ("p x{}y", ["a", "b"], ["xa", "by"]),
    ("p {}{}", ["a", "b"], ["a", "ba", "b"]),
    ("p {2}{1}", ["a", "b"], ["ba"]),
    ("p {1} {2} {1}", ["a", "b"], ["a", "b", "a"]),
    ("p {-1} {-2}", ["a", "b"], ["b", "a"]),
    ("p {2.} {2/} {2//} {2/.}", ["a", "d/b.c"], ["d/b", "b.c", "d", "b"]),
    ("p {-1.} {-1/} {-1//} {-1/.}", ["a", "d/b.c"], ["d/b", "b.c", "d", "b"]),
    ("p {.}", ["a.x", "b.y"], ["a", "b"]),
    ("p {.}.out", ["a.x"], ["a.out"]),
    ("p {3} x", ["a"], ["x"]),
    ("p y{3}x", ["a"], ["yx"]),
    ("p {0} {01}", ["a", "b"], ["a", "a"]),
    ("p {-3}", ["a", "b"], ["b"]),
    ("p {#}", ["a"], ["7"]),
    ("p {%}-{#}-{}", ["a"], ["3-7-a"]),
    ("p {{}} {{1}}", ["a"], ["{a}", "{a}"]),
    ("p {x} { } {+1} {. {.@}", ["a"], ["{x}", "{", "}", "{+1}", "{.", "{.@}", "a"]),
    ("p  two   blanks\tand {} ", ["a"], ["two", "blanks", "and", "a"]),
    ("p {}", [""], [""]),
    ("p", ["", ""], ["", ""]),
    ("{} {1.}", ["a.b"], None),
    ("[ -n {} ]", ["a b"], None),
    ("dd if={} of={.}.img", ["a.b"], ["if=a.b", "of=a.img"]),
    ("p {1},{2} {{1}}", ["a", "b"], ["a,b", "{a}"]),
]


@pytest.mark.parametrize(("template", "values", "expected"), REPLACED)
def test_replacement_strings_mean_what_they_do_in_gnu_parallel(template: str, values: list[str], expected: list[str]) -> None:
    parsed = Template.parse([template])
    args = parsed.render(values, 7, 3).args
    assert not parsed.uses_shell
    if expected is not None:
        assert list(args[1:]) == expected
    assert [*map(os.fsencode, args)] == arguments(ran(["/bin/sh", "-c", f"printf '%s\\0' {parsed.display(values, 7, 3)}"]))


@pytest.mark.parametrize("template", ["p {}", "p '{}'", 'p "{}"', "p $(printf %s {})", "p {1} {.} | cat"])
def test_a_template_serves_rows_of_any_length(template: str) -> None:
    parsed = Template.parse([template])
    for values in (["a"], ["a", "b"], [], ["a"], ["a", "b", "c"]):
        fresh = Template.parse([template])
        assert parsed.render(values, 1, 1) == fresh.render(values, 1, 1)
        assert parsed.display(values, 1, 1) == fresh.display(values, 1, 1)


@pytest.mark.parametrize(
    ("replacement", "template", "expected"),
    [
        (",,", "p ,, {} {.} ,,.", ["a.b", "{}", "a", "a.b."]),
        ("%", "p 100% {}", ["100a.b", "{}"]),
        ("X", "p yXz {1.} {X}", ["ya.bz", "a", "{a.b}"]),
        ("XX", "p x", ["x", "a.b"]),
        ("{}", "p {}", ["a.b"]),
        ("{.}", "p {.} {}", ["a.b", "{}"]),
    ],
)
def test_another_string_can_stand_for_the_value(replacement: str, template: str, expected: list[str]) -> None:
    assert list(Template.parse([template], replacement=replacement).render(["a.b"], 1, 1).args[1:]) == expected


def test_an_empty_replacement_string_is_refused() -> None:
    with pytest.raises(UsageError, match="-I ,,"):
        Template.parse(["echo"], replacement="")


def test_several_words_are_joined_and_read_again() -> None:
    assert args_of(["p", "a b", "{}"], "c d") == ("p", "a", "b", "c d")
    assert args_of(["p", "a; p", "{}"], "c d")[:2] == ("/bin/sh", "-c")


# ---- with or without a shell -----------------------------------------------------------------------------------------------

PLAIN = [
    *("gzip -9k {}", "echo {}", "printf %s {}", "test -f {}", "[ -f {} ]", "true", "kill -0 {}", "env A=b prog {}"),
    *(
        "./x.sh --opt=value -o {.}.png @list +x a:b a,b a%b a^b",
        "{}.sh x",
        "awk {print}",
        "echo 한글 {}",
        "pwd {}",
        "p {a} {-} { }",
    ),
]
SHELL_NEEDED = [
    *("a | b {}", "a && b", "a; b", "a &", "a > f", "a < f", "a 2>&1", "(a)", "a $x", "a `b`", "a 'b'", 'a "b"', "a \\b"),
    *(
        "a *",
        "a ?",
        "a [b]",
        "a ~/b",
        "a #b",
        "a !b",
        "! a",
        "a\nb",
        "{ a; }",
        "a {b,c}",
        "a {1..3}",
        "a {},{b,}",
        "X=1 a",
        "X+=1 a",
    ),
    *(
        "cd {}",
        "exit {}",
        "if a",
        "for a",
        "export {}",
        ": {}",
        "set {}",
        "ulimit {}",
        "umask {}",
        "eval {}",
        "source {}",
        ". {}",
    ),
    *("type {}", "command {}", "trap {}", "wait {}", "read {}", "exec {}", "shift", "time {}", "while {}", "[[ {} ]]", "a [ b]"),
]


@pytest.mark.parametrize("template", PLAIN)
def test_plain_words_are_run_without_a_shell(template: str) -> None:
    parsed = Template.parse([template])
    assert not parsed.uses_shell
    assert parsed.render(["v"], 1, 1).args[0] != "/bin/sh"


@pytest.mark.parametrize("template", SHELL_NEEDED)
def test_whatever_a_shell_would_act_on_goes_to_the_shell(template: str) -> None:
    parsed = Template.parse([template])
    assert parsed.uses_shell
    assert parsed.render(["v"], 1, 1).args[:2] == ("/bin/sh", "-c")


def test_a_script_is_the_same_for_every_value() -> None:
    parsed = Template.parse(["cat {} | p '{}' \"{.}\" {}"])
    one, other = (parsed.render([value], 1, 1).args for value in ("a.b", "$(c)"))
    assert one == ("/bin/sh", "-c", 'cat "${1}" | p \'\'"${1}"\'\' "${2}" "${1}"', "sh", "a.b", "a")
    assert one[:4] == other[:4]
    assert other[4:] == ("$(c)", "$(c)")


def test_another_shell_can_be_asked_for() -> None:
    assert Template.parse(["a | b"], shell="/bin/bash").render(["v"], 1, 1).args[:2] == ("/bin/bash", "-c")


def test_a_script_that_begins_with_a_dash_is_no_option_of_the_shell() -> None:
    assert args_of("-x {} | cat", "v")[2] == ' -x "${1}" | cat'
    assert args_of("{}", "-x | cat")[2] == " -x | cat"


@pytest.mark.parametrize("words", [[], ["{}"], ["{1}"], ["{} "]])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("echo a  b", ("echo", "a", "b")),
        ("echo 'a  b' | cat", ("/bin/sh", "-c", "echo 'a  b' | cat")),
        ("echo {} x", ("echo", "{}", "x")),
        ("", ("/bin/sh", "-c", "")),
    ],
)
def test_without_a_command_the_values_are_command_lines(words: list[str], line: str, expected: tuple[str, ...]) -> None:
    parsed = Template.parse(words)
    assert parsed.render([line], 1, 1).args == expected
    assert parsed.display([line], 1, 1) == line


def test_command_lines_from_several_sources_are_joined() -> None:
    assert args_of([], "echo", "b c") == ("echo", "b", "c")


# ---- what the shell makes of it --------------------------------------------------------------------------------------------

bare_text = st.text("abz019-+=:.,/%@^_é한", min_size=1, max_size=6)
single_text = st.text('ab $"`\\;|&<>()*?[]~#!\n\té', max_size=6)
double_text = st.text("ab ';|&<>()*?[]~#\n\té.", max_size=6)
values = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b""))),
)
replacements = st.sampled_from(["{}", "{1}", "{-1}"])


@st.composite
def quoted_pieces(draw: st.DrawFn) -> tuple[str, list[str | None]]:
    """A piece of a word as it is typed, and what it means: literal text, and None for the value."""
    quotes, literals = draw(st.sampled_from([("", bare_text), ("'", single_text), ('"', double_text)]))
    before, after, replacement = draw(literals), draw(literals), draw(replacements)
    meaning, typed = draw(
        st.sampled_from(
            [
                ([before], before),
                ([None], replacement),
                ([before, None], before + replacement),
                ([None, after], replacement + after),
                ([None, None, after], replacement + replacement + after),
            ]
        )
    )
    return quotes + typed + quotes, meaning


typed_words = st.lists(st.lists(quoted_pieces(), min_size=1, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=60)
@given(words=typed_words, value=values)
@example(words=[[('"{}"', [None])], [("'{}'", [None])], [("{}", [None])]], value="$(exit 3)`exit 3`\";exit 3;\"';exit 3;'")
def test_every_value_arrives_as_it_is_however_it_is_quoted(
    shell: str, words: list[list[tuple[str, list[str | None]]]], value: str
) -> None:
    line = "printf '%s\\0' " + " ".join(["".join([typed for typed, _ in word]) for word in words])
    meant = [os.fsencode("".join([value if part is None else part for _, meaning in word for part in meaning])) for word in words]
    if not any(part is None for word in words for _, meaning in word for part in meaning):
        meant.append(os.fsencode(value))
    template = Template.parse([line], shell=shell)
    assert arguments(ran(template.render([value], 1, 1).args)) == meant
    assert arguments(ran([shell, "-c", template.display([value], 1, 1)])) == meant


@pytest.mark.parametrize("value", NASTY)
def test_every_value_arrives_as_it_is_without_a_shell(value: str) -> None:
    template = Template.parse(["/usr/bin/env printf {}"])
    assert template.render([value], 1, 1).args == ("/usr/bin/env", "printf", value)
    python = Template.parse(["/usr/bin/env", "printf", "%s.", "a{}b"])
    assert ran(python.render([value], 1, 1).args) == b"a" + os.fsencode(value) + b"b."


# A script in which P is a program that prints its arguments between brackets; what it prints, with V for the value.
SCRIPTS = [
    ('P "`P {}`"', "[[V]]"),
    ('P "`P "{}"`"', "[[V]]"),
    ('P "$(P {})"', "[[V]]"),
    ('P "$(P "{}" \'{}\' {})"', "[[V][V][V]]"),
    ('P "$(P "$(P {})")" {}', "[[[V]]][V]"),
    ('P "a$(P b)c{}" {}', "[a[b]cV][V]"),
    ('P "${x:-{}}"', "[V]"),
    ("P ${x:-{}}", "[V]"),
    ("P ${x:-'{}'} {}", "[V][V]"),
    ('y={}z; P "${y#{}}" "${y%"{}z"}"', "[z][]"),
    ('x={}; P "$x"', "[V]"),
    ("x={} ; P \"${x}\" '{}'", "[V][V]"),
    ("x={} /usr/bin/env P {} | cat", "[V]"),
    ('for x in {} b; do P "$x"; done', "[V][b]"),
    ("if P {}; then P '{}'; fi", "[V][V]"),
    ("(P {}; P '{}')", "[V][V]"),
    ("{ P {}; }", "[V]"),
    ("! P {} && exit 3; P x", "[V][x]"),
    ("P a # it's {} \"\nP {}", "[a][V]"),
    ("P a#b{} c", "[a#bV][c]"),
    ("P \\\\{}", "[\\V]"),
    ("P \\{}", "[V]"),
    ('P "\\{}"', "[\\V]"),
    ('P "\\\\{}"', "[\\V]"),
    ('P "\\"{}\\"" {}', '["V"][V]'),
    ("P it\\'s {} \"it's {}\"", "[it's][V][it's V]"),
    ("P ${}", "[$V]"),
    ('P "${}"', "[$V]"),
    ("P \\${1} '${1}' \"\\${1}\"", "[$V][$V][$V]"),
    ('y=q; P "${y}{}"', "[qV]"),
    ('f() { P {} "$1"; }; f x', "[V][x]"),
    ("f () (P '{}' $#); f x y", "[V][2]"),
    ("f() { P {}; }; f x", "[V]"),
    ("set -- q; P {} $1", "[V][q]"),
    ('P "$(set -- q; P {} "$1")" {}', "[[V][q]][V]"),
    ("case x in (y) exit 3;; x) P {};; esac", "[V]"),
    ('P "$(case x in x) P {};; esac)" {}', "[[V]][V]"),
    ('P "$(case {} in {}) P "{}";; esac; P {})"', "[[V][V]]"),
    ("P {} 2>&1 >&1", "[V]"),
    ("P >/dev/null {}; P '{}'", "[V]"),
    ("cat <<E\n{} \"{}\" '{}'\nE\nP {}", "V \"V\" 'V'\n[V]"),
    ("cat <<-E\n\t{}\n\tE\nP {}", "V\n[V]"),
    ("cat <<E; P {}\n$(P {} '{}')\nE", "[V][V]\n[V]"),
    ("cat <<'E'; P {}\n$x `y` 'z\nE", "$x `y` 'z\n[V]"),
    ("cat <<A <<\\B\n{}\nA\nb$x\nB\nP {}", "b$x\n[V]"),
    ("P {#}{%} $(({#} + {%} * (2)))", "[12][5]"),
    ("P {#} '{%}' \"{#}\" '$'{#} \\{%}", "[1][2][1][$1][2]"),
    ("P a{1}{2}b '{3}' {3}", "[aVb][]"),
    ("P ${1} $1 $@ $* $# ${#}; P a", "[0][0][a][V]"),
    ('P "$1$2" {} {.}x | cat', "[][V][Vx]"),
    ("P '$1' {}", "[$1][V]"),
]


@pytest.fixture(scope="module")
def brackets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the program P, which prints its arguments between brackets."""
    path = tmp_path_factory.mktemp("program") / "P"
    path.write_text("#!/bin/sh\nfor a; do printf '[%s]' \"$a\"; done\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path.parent)


@pytest.fixture
def program_on_path(brackets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", brackets, prepend=os.pathsep)


@pytest.mark.usefixtures("program_on_path")
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("script", "printed"), SCRIPTS)
def test_the_shells_own_syntax_is_followed(shell: str, script: str, printed: str) -> None:
    template = Template.parse([script], shell=shell)
    value = "a  b$(exit 3)`exit 3`\"'; exit 3; '\\*\n}\nE\n)"
    expected = os.fsencode(printed.replace("V", value))
    assert ran(template.render([value], 1, 2).args).removesuffix(b"\n") == expected
    for shown in (value, "v"):
        expected = os.fsencode(printed.replace("V", shown))
        assert ran([shell, "-c", template.display([shown], 1, 2)]).removesuffix(b"\n") == expected


@pytest.mark.usefixtures("program_on_path")
@pytest.mark.parametrize(
    ("script", "printed"),
    [
        ("P {}; true", "[a b][c]"),
        ("P '{}'", "[a b c]"),
        ('P "{}"', "[a b c]"),
        ("P x{}y; true", "[xa b][cy]"),
        ("P x'{}'y\"{}\"", "[xa b cya b c]"),
        ("P {} | cat <<E\n{} {2}\nE", "a b c c"),
        ("P {2} {1} {2}{-2}; true", "[c][a b][ca b]"),
        ("f() { P {} $1; }; f x", "[a b][c][x]"),
        ("P '{3}' \"{3}\" {3} x", "[][][x]"),
    ],
)
def test_the_values_of_several_sources_keep_apart_outside_of_quotes(script: str, printed: str) -> None:
    template = Template.parse([script])
    for args in (template.render(["a b", "c"], 1, 1).args, ["/bin/sh", "-c", template.display(["a b", "c"], 1, 1)]):
        assert ran(args).removesuffix(b"\n").decode() == printed


@pytest.mark.parametrize(
    "script", ["cat <<'E'\n{}\nE", 'cat <<"E"\n{}\nE', "cat <<\\E\n{}", "cat <<-'E'\n\t{}\n\tE", "cat <<{}\n{}\n"]
)
def test_a_quoted_here_document_cannot_take_a_value(script: str) -> None:
    with pytest.raises(UsageError, match="-I"):
        Template.parse([script])


@pytest.mark.parametrize(
    "script",
    ["echo '", 'echo "{}', "echo $({}", "echo `{}", "echo ${x:-{}", "echo $(({}", "cat <<E\n{}", "echo {}\\", "echo $"],
)
def test_what_is_left_open_is_left_for_the_shell_to_say(script: str) -> None:
    assert Template.parse([script]).render(["v"], 1, 1).args[:2] == ("/bin/sh", "-c")


# ---- what is shown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "value", "shown"),
    [
        ("echo", "a", "echo a"),
        ("echo", "a b", "echo 'a b'"),
        ("echo", "", "echo ''"),
        ("echo {} | cat", "it's", "echo 'it'\"'\"'s' | cat"),
        ("echo  '{}'  \"{}\" x", "$a'\"", "echo  '$a'\"'\"'\"'  \"\\$a'\\\"\" x"),
        ("echo {.}.out > {/}", "d/a.b", "echo d/a.out > a.b"),
        ("echo {#} {%}", "a", "echo 1 2"),
        ("cat <<E\n{}\nE", "a", "/bin/sh -c 'cat <<E\n${1}\nE' sh a"),
        ("echo `echo {}` $(( {#} ))", "d/a.b", "echo `echo d/a.b` $(( 1 ))"),
        ("echo `echo {}`", "a b", "/bin/sh -c 'echo `echo \"${1}\"`' sh 'a b'"),
        ("echo $((2*{}))", "-21", "echo $((2*-21))"),
        ("echo a # {}", "b", "echo a # b"),
        ("echo a # {}", "b\nc", "/bin/sh -c 'echo a # ${1}' sh 'b\nc'"),
        ("echo ${x:-{}}", "b", "echo ${x:-b}"),
        ('echo "${x:-{}}"', "}", "/bin/sh -c 'echo \"${x:-${1}}\"' sh '}'"),
        ("echo", "é", "echo 'é'"),
        ("echo", "a=b", "echo 'a=b'"),
        ("echo", "+-_./aZ9", "echo +-_./aZ9"),
    ],
)
def test_what_is_shown_is_what_one_would_type(template: str, value: str, shown: str) -> None:
    assert Template.parse([template]).display([value], 1, 2) == shown


# ---- others who read code --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("sh -c 'echo {}'", "sh -c 'command \"$1\"' sh {}"),
        ('bash -c "echo {}"', "bash -c 'command"),
        ("/bin/bash -euo pipefail -c 'echo {}'", "`bash -c`"),
        ("sudo -u me dash -c 'echo {} x'", "`dash -c`"),
        ("find . -exec sh -c 'echo {}' ';'", "`sh -c`"),
        ("su me -c 'echo {}'", "`su -c`"),
        ("cd x && sh -c 'echo {.}'", "`sh -c`"),
        ("x=$(sh -c 'echo {}')", "`sh -c`"),
        ("eval echo {}", "Leave eval out"),
        ("if eval 'echo {}'; then a; fi", "Leave eval out"),
        ("ssh host ls {}", "xargs -0"),
        ("ssh -p 22 -v me@host 'ls {}'", "xargs -0"),
        ("awk '{print \"{}\"}' f", "`awk`"),
        ("sed 's/x/{}/' f", "`sed`"),
        ("sed s/x/{}/ f", "`sed`"),
        ("perl -ne 'print {}'", "`perl`"),
        ("python3.11 -c 'print({})'", "`python3.11`"),
        ("echo $(({} * 2))", "is a number"),
    ],
)
def test_a_value_that_another_program_would_read_as_code_is_warned_of(template: str, says: str) -> None:
    (warning,) = Template.parse([template]).warnings()
    assert says in warning


@pytest.mark.parametrize(
    "template",
    [
        *("echo {}", "sh -c 'echo \"$1\"' sh {}", "sh -c {}", "bash {}", "sh script.sh -c {}x", "ssh {} uptime", "ssh host {}"),
        *(
            "awk '{print $1}' {}",
            "awk '{print $1}' x={}",
            "sed s/a/b/ dir/{}",
            "sed -i s/a/b/ {}",
            "perl x.pl -e {}.y",
            "{}",
            "eval {}",
        ),
        *("python3 -m mod -c a {}b", "echo sh -c 'x' {}", "echo $(({#} * 2))", "sh -c 'echo {#}'", "python -c 'print(1)' {}.x"),
        *("ssh host uptime > {}.log", "ssh -i key host uptime 2>{}.err", "sh <{}"),
    ],
)
def test_a_value_that_stays_a_value_is_not_warned_of(template: str) -> None:
    assert Template.parse([template]).warnings() == []


def test_each_warning_is_given_once() -> None:
    assert len(Template.parse(["sh -c 'a {}'; sh -c 'b {}'"]).warnings()) == 1
