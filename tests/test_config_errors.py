"""Config files that cannot be read, where an option was set, and the parser's account reduced to its point."""

from pathlib import Path

import pytest

from lit_ixc.config_errors import config_files, explain, origin, read_config, suggest
from lit_ixc.records import UserError

# What jsonargparse 4.53 says of `--model.init_args.head.init_args.size=x` where the option takes a number or a word.
UNION = """\
Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'toy.Module':
        Parser key "head":
          Problem with given class_path 'toy.Head':
            Parser key "size":
              Does not validate against any of the Union subtypes
              Subtypes: (<class 'int'>, typing.Literal['auto'])
              Errors:
                - Expected a <class 'int'>
                - Expected a typing.Literal['auto']
              Given value type: <class 'str'>
              Given value: x
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='head.init_args.size', val='x')"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1", "bad.yaml:2:6: not valid YAML: "),
        ("a:\n  b: 1\n  b: 2\n", "bad.yaml:3:3: not valid YAML: key 'b' appears twice"),
        ("- a\n", "bad.yaml: a config is a mapping of options, this holds list"),
        ("", "bad.yaml: a config is a mapping of options, this holds NoneType"),
        ("a: !!python/object:os.system {}\n", "bad.yaml:1:4: not valid YAML: could not determine a constructor"),
    ],
)
def test_an_unreadable_config_is_named_with_its_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_config(Path("bad.yaml"))
    assert str(error.value).startswith(message)


def test_a_config_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match="bad.yaml: not a YAML text file"):
        read_config(path)


def test_merged_keys_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("base: &base {x: 1}\none: {<<: *base, x: 2}\n")
    assert read_config(path) == {"base": {"x": 1}, "one": {"x": 2}}


def test_config_files_in_every_spelling() -> None:
    words = ["--config", "a.yaml", "--data.root", "x", "--config=b.yaml", "-c", "c.yaml", "--config"]
    assert config_files(words) == [Path("a.yaml"), Path("b.yaml"), Path("c.yaml")]


def test_suggestions() -> None:
    assert suggest("heads", ["head", "loss"]) == "; did you mean head?"
    assert suggest("xyz", ["head", "loss"]) == ""


def test_the_last_place_that_sets_an_option_is_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("model: {class_path: M, init_args: {head: {class_path: H, init_args: {size: 1}}}}")
    Path("b.yaml").write_text("data: parts/data.yaml\ntrainer: {callbacks: [{class_path: C, init_args: {every: 1}}]}")
    Path("parts").mkdir()
    Path("parts/data.yaml").write_text("class_path: D\ninit_args: {root: x}")
    both = ["--config", "a.yaml", "--config=b.yaml"]
    assert origin("model.init_args.head.init_args.size", both) == "a.yaml: "
    assert origin("data.init_args.root", both) == "parts/data.yaml: "  # a file included by b.yaml
    assert origin("trainer.callbacks[0].init_args.every", both) == "b.yaml: "
    assert origin("model.init_args.rate", both) == ""  # set nowhere
    assert origin("model.init_args.head.init_args.size", [*both, "--model.head.size=2"]) == "command line: "
    assert origin("model.init_args.head.init_args.size", ["--model.head.size=2", *both]) == "a.yaml: "
    assert origin("trainer.callbacks", ["--trainer.callbacks+=C"]) == "command line: "
    assert origin("model.init_args.head", ["--model.heads=2"]) == ""


def test_the_alternatives_of_a_union_are_joined() -> None:
    message = explain(UNION, ["--model.init_args.head.init_args.size=x"], [])
    assert message == "command line: model.init_args.head.init_args.size = x: expected int or Literal['auto']"


def test_what_is_not_recognised_is_passed_on() -> None:
    assert explain("The sky fell.\nIt was blue.", [], []) == "The sky fell. It was blue."
    assert explain("", [], []) == ""


def test_a_factory_that_does_not_exist_is_named() -> None:
    account = """\
Parser key "model":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'toy.Module':
        Parser key "head":

          - Expected a path but json.JSONDecode either not accessible or invalid
          - Type collections.abc.Callable[[int], toy.H] expects a function or a callable class: module 'json' has no \
attribute 'JSONDecode'. Got value: json.JSONDecode
    - Expected a <class 'NoneType'>"""
    expected = (
        "model.init_args.head = json.JSONDecode: json has no 'JSONDecode'; did you mean JSONDecoder or JSONDecodeError?"
    )
    assert explain(account, [], []) == expected


def test_an_option_is_named_by_the_levels_above_it_alone() -> None:
    account = """\
Parser key "model":
  Errors:
    - Problem with given class_path 'json.JSONDecoder':
        Parser key "head":
          Expected a <class 'int'>. Got value: x
    - Problem with given class_path 'json.JSONEncoder':
        Option 'sort_kyes' is not accepted"""
    # Not model.init_args.head.init_args.sort_kyes: the head belongs to the attempt before.
    expected = "model.init_args.sort_kyes: no such option of json.JSONEncoder; did you mean sort_keys?"
    assert explain(account, [], []) == expected
