"""Config files as people and attackers write them."""

import re

import pytest

from plcourse import catalog
from plcourse.cli.request import read_request
from plcourse.runs import config_yaml, configs
from plcourse.runs.config_yaml import expand_class_names, locate_key, parse_config
from plcourse.runs.configs import ConfigSource, find_config, parse_header, resolved_path
from plcourse.runs.differences import differences
from run_folders import HEADER, message


def source(text: str) -> ConfigSource:
    return ConfigSource("my.yaml", "my.yaml", text, packaged=False)


class TestParsing:
    def test_numbers_are_read_as_jsonargparse_reads_them(self):
        tree = parse_config(source("a: 1e-3\nb: 2024-01-02\nc: .5\nd: 1_000\ne: -.inf\nf: 1.5e3\ng: true\nh: null\n"))
        assert tree == {
            "a": 0.001,
            "b": "2024-01-02",
            "c": 0.5,
            "d": 1000,
            "e": float("-inf"),
            "f": 1500.0,
            "g": True,
            "h": None,
        }

    def test_anchors_and_merges_work(self):
        tree = parse_config(source("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n"))
        assert tree == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}

    @pytest.mark.medium
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a: 1\nb: [1, 2\nc: 3\n", "my.yaml:3: not valid YAML"),
            ("a: 1\n\tb: 2\n", "my.yaml:2: not valid YAML"),
            ("a: *nowhere\n", "my.yaml:1: not valid YAML"),
            ("a: 1\nb: \x07\n", "my.yaml:2: not valid YAML"),
            ("a: 1\n---\nb: 2\n", "my.yaml:2: not valid YAML: expected a single document"),
            ("a: !!int x\n", "not valid YAML"),
            ("", "my.yaml: empty"),
            ("# only a comment\n", "my.yaml: empty"),
            ("- a\n- b\n", "my.yaml:1: the top level is a list"),
            ("\nfit\n", "my.yaml:2: the top level is a single value"),
            ("a:\n  b: 1\n  c: 2\n  b: 3\n", "my.yaml:4: duplicate key 'b' (first defined in line 2)"),
            ("a: {b: 1, b: 2}\n", "my.yaml:1: duplicate key 'b'"),
            ("a: [{b: 1, 'b': 2}]\n", "my.yaml:1: duplicate key 'b'"),
            ("on: 1\n", "the top-level key True is not text"),
            ("a: {[1]: 2}\n", "my.yaml:1: a key is a list"),
            ("a: &a [*a]\n", "my.yaml:1: an anchor contains itself"),
            ("a: &a {b: *a}\n", "my.yaml:1: an anchor contains itself"),
            (
                "a: 1\nb: !!python/object/apply:os.system [id]\n",
                "my.yaml:2: the YAML tag !!python/object/apply:os.system",
            ),
            ("a: !!python/name:os.system\n", "refused"),
            ("a: !own 3\n", "my.yaml:1: the YAML tag !own is refused"),
            ("a: !!binary aGk=\n", "the YAML tag !!binary is refused"),
            ("a: " + "[" * 50_000, "levels deep"),
            ("a: " + "[" * 150 + "]" * 150, "levels deep"),
            ("a: " + "[" * 400 + "]" * 400, "levels deep"),
        ],
    )
    def test_what_is_wrong_is_said_with_its_line(self, text, expected):
        assert expected in message(parse_config, source(text))

    def test_a_tag_runs_nothing(self, tmp_path):
        mark = tmp_path / "ran"
        message(
            parse_config,
            source(f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]"),
        )
        assert not mark.exists()

    @pytest.mark.parametrize("item", ["[{}]", "{{<<: [{}]}}"], ids=["aliases", "merges"])
    def test_an_anchor_bomb_is_refused_unexpanded(self, item):
        lines = ["a0: &a0 {x: 1}"]
        lines += [f"a{level}: &a{level} " + item.format(", ".join([f"*a{level - 1}"] * 9)) for level in range(1, 30)]
        # Expanded, the 9**29 values would fit into no memory.
        assert "aliases expand to" in message(parse_config, source("\n".join(lines)))

    @pytest.mark.medium
    def test_a_long_chain_of_anchors_counts_as_deep(self):
        lines = ["a0: &a0 [1]", *(f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 3000))]
        assert "levels deep" in message(parse_config, source("\n".join(lines)))

    def test_what_is_just_allowed(self):
        shared = "a: &a [" + "1, " * 99 + "1]\nb: [" + "*a, " * 900 + "*a]\n"
        assert len(parse_config(source(shared))["b"]) == 901
        assert parse_config(source("a: " + "[" * 90 + "]" * 90))


class TestHeader:
    def test_a_whole_one(self):
        header = parse_header(source(HEADER + "\n# more\nmodel: x\n"))
        assert header.command == "plcourse fit -c ddp/two_processes --then test"
        assert header.shows == "Two processes train a small network; the same losses as one."
        assert header.verbs == ("fit", "test")
        assert header.needs == ()

    def test_needs_are_a_list(self):
        text = HEADER.replace("nothing", "gpu, two nodes, a file, a run")
        assert parse_header(source(text)).needs == ("gpu", "two nodes", "a file", "a run")

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("# plcourse fit", "# fit", "my.yaml:1: the first line"),
            ("# verbs: fit, test\n", "", "my.yaml: the comment at the top"),
            ("# needs: nothing\n", "", "my.yaml: the comment at the top"),
            ("fit, test", "fit, tset", "my.yaml:4: `verbs:` has 'tset'"),
            ("fit, test", "fit, tset", "did you mean 'test'?"),
            ("fit, test", "ls", "my.yaml:4: `verbs:` has 'ls'"),
            ("nothing", "", "my.yaml:5: `needs:` has ''"),
            ("nothing", "a pgu", "my.yaml:5: `needs:` has 'a pgu'"),
            ("nothing", "nothing, gpu", "my.yaml:5: `needs:` is either"),
        ],
    )
    def test_a_broken_one_names_the_line(self, old, new, expected):
        assert expected in message(parse_header, source(HEADER.replace(old, new)))

    def test_every_packaged_config_has_one_that_names_it(self):
        names = catalog.config_names()
        assert names, f"found no configs in {catalog.configs_dir()}"
        for name in names:
            found = find_config(str(catalog.config_path(name)))
            assert (found.name, found.packaged) == (name, True)
            assert name in parse_header(found).command.split()
            assert parse_config(found)


class TestClassNames:
    def test_class_paths_at_any_depth(self):
        tree = parse_config(
            source(
                "model: {class_path: ImageClassifier, init_args: {network: {class_path: ResNet}}}\n"
                "trainer:\n  callbacks: [{class_path: RunCheckpoint}, {class_path: ModelCheckpoint}]\n"
                "x: [[{class_path: MLP}]]\n"
            )
        )
        full = expand_class_names(tree, source(""))
        assert full["model"]["class_path"] == "plcourse.ddp.model.ImageClassifier"
        assert full["model"]["init_args"]["network"]["class_path"] == "plcourse.ddp.networks.ResNet"
        assert full["trainer"]["callbacks"][0]["class_path"] == "plcourse.training.run_checkpoint.RunCheckpoint"
        assert full["trainer"]["callbacks"][1]["class_path"] == "ModelCheckpoint"
        assert full["x"][0][0]["class_path"] == "plcourse.ddp.networks.MLP"
        assert tree["model"]["class_path"] == "ImageClassifier"

    def test_plain_names_where_a_class_stands(self):
        tree = {
            "model": "ImageClassifier",
            "data": "ImageData",
            "lr_scheduler": "WarmupCosine",
            "trainer": {"fit_loop": "TracingFitLoop", "callbacks": ["RunCheckpoint", "RichProgressBar"]},
        }
        full = expand_class_names(tree, source(""))
        assert full["model"] == "plcourse.ddp.model.ImageClassifier"
        assert full["data"] == "plcourse.data.image_data.ImageData"
        assert full["lr_scheduler"] == "plcourse.training.schedules.WarmupCosine"
        assert full["trainer"]["fit_loop"] == "plcourse.training.tracing.TracingFitLoop"
        assert full["trainer"]["callbacks"] == ["plcourse.training.run_checkpoint.RunCheckpoint", "RichProgressBar"]

    def test_a_word_elsewhere_is_a_word(self):
        tree = {"data": {"init_args": {"title": "MLP", "names": ["ResNet", "MLP"], "model": "MLP"}}}
        assert expand_class_names(tree, source("")) == tree

    def test_a_class_of_the_suite_is_known_by_its_name_in_whatever_module(self):
        given = source(
            "model: {class_path: plcourse.gone.model.ImageClassifier, init_args: {network: plcourse.ddp.model.MLP}}\n"
            "trainer: {fit_loop: plcourse.old.TracingFitLoop}\ndata: {class_path: plcourse.ddp.data.NoClass}\n"
        )
        tree = parse_config(given)
        assert tree["model"]["class_path"] == "ImageClassifier"
        assert tree["data"]["class_path"] == "plcourse.ddp.data.NoClass"
        full = expand_class_names(tree, given)
        assert full["model"]["class_path"] == catalog.CLASSES["ImageClassifier"]
        assert full["model"]["init_args"]["network"] == catalog.CLASSES["MLP"]
        assert full["trainer"]["fit_loop"] == catalog.CLASSES["TracingFitLoop"]
        assert full["data"]["class_path"] == "plcourse.ddp.data.NoClass"
        recorded = {"model": full["model"], "trainer": {"callbacks": ["plcourse.a.RunCheckpoint"]}}
        asked = {"model": tree["model"], "trainer": {"callbacks": ["RunCheckpoint"]}}
        assert not differences(recorded, asked)
        assert not differences(asked, recorded)

    def test_class_names_inside_a_flag(self):
        flag = "--trainer.callbacks+={class_path: plcourse.gone.RunCheckpoint, init_args: {net: {class_path: MLP}}}"
        (full,) = read_request("fit", [flag]).arguments
        paths = [catalog.CLASSES["RunCheckpoint"], catalog.CLASSES["MLP"]]
        assert re.findall(r"class_path: ([\w.]+)", full) == paths

    def test_an_unknown_short_name_or_a_path_is_left_alone(self):
        tree = {"model": {"class_path": "torch.nn.ReLU"}, "data": {"class_path": "Nonsense"}}
        assert expand_class_names(tree, source("")) == tree

    def test_a_class_path_that_is_no_name(self):
        text = "trainer:\n  callbacks:\n    - init_args: {}\n      class_path: [a]\n"
        given = source(text)
        line = message(expand_class_names, parse_config(given), given)
        assert line.startswith("my.yaml:4: trainer.callbacks.0.class_path is ['a']")

    def test_an_alias_used_twice_becomes_two_copies(self):
        given = source("model: &m {class_path: MLP}\ndata: *m\n")
        full = expand_class_names(parse_config(given), given)
        full["model"]["class_path"] = "changed"
        assert full["data"]["class_path"] == "plcourse.ddp.networks.MLP"


class TestLocating:
    FIRST = "model:\n  init_args:\n    lr: 1\n    sizes: [1,\n      2]\ntrainer.max_epochs: 3\n"
    SECOND = "model:\n\n  init_args:\n    width: 2\n"

    @pytest.mark.parametrize(
        ("key", "line"),
        [("model", 1), ("model.init_args.lr", 3), ("model.init_args.sizes.1", 5), ("trainer.max_epochs", 6)],
    )
    def test_in_one_file(self, key, line):
        assert locate_key([source(self.FIRST)], key) == f"my.yaml:{line}"

    def test_the_last_file_that_has_it_wins(self):
        files = [source(self.FIRST), ConfigSource("b.yaml", "b.yaml", self.SECOND, packaged=False)]
        assert locate_key(files, "model.init_args") == "b.yaml:3"
        assert locate_key(files, "model.init_args.lr") == "my.yaml:3"

    def test_a_key_that_is_nowhere(self):
        files = [source(self.FIRST), source("a: [")]
        assert locate_key(files, "model.init_args.hidden") == ""
        assert locate_key(files, "model.init_args.hidden", parents=True) == "my.yaml:2"
        assert locate_key(files, "nothing.of.this", parents=True) == ""
        assert locate_key([], "model") == ""


class TestResolved:
    def test_the_prebuilt_file(self, packaged):
        assert "--print_config" in message(resolved_path, "ddp/one_process")
        file = packaged / "_resolved/ddp/one_process.yaml"
        file.parent.mkdir(parents=True)
        file.touch()
        assert resolved_path("ddp/one_process") == resolved_path("ddp/one_process.yaml") == file

    def test_an_unknown_name(self, packaged):
        assert "did you mean 'ddp/one_process'?" in message(resolved_path, "ddp/one_proces")


def test_the_limits_are_those_of_the_documentation():
    assert (configs.MAX_BYTES, config_yaml.MAX_NODES, config_yaml.MAX_DEPTH) == (1 << 20, 100_000, 100)
