import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from resrope.longtext import harness
from resrope.longtext.candidates import candidates
from resrope.longtext.harness import Evaluation, _leval, _metrics, evaluate
from resrope.longtext.harness_model import HarnessModel
from resrope.longtext.leval import TASK_FOLDER
from resrope.longtext.leval.prompts import shortened, system_prompt
from resrope.longtext.leval.scoring import score
from resrope.longtext.leval.suite import run_suite, wanted_tasks
from resrope.longtext.store import Records
from resrope.longtext.subject import open_subject
from resrope.models.apply import rope_of
from resrope.models.extension import extension

STORY = " ".join(f"w{n % 40}" for n in range(900))
QUESTION = {
    "coursera": ("Which? A. B. C.", ["AB", "C"]),
    "gsm100": ("1 + 1?", ["2"]),
    "quality": ("Why?", ["(B) so", "C"]),
    "tpo": ("Who? A. he B. she", ["A", "D", "A"]),
    "codeU": ("What is the final output?", ["2"]),
    "sci_fi": ("Is it? Answer based on the world described in the document.", ["True [fact: False]"] * 2),
}
CHAT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)
# Prompts of these tests are short of it by a few tokens only.
LENGTH = 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random llama that knows single words, and ends most answers within a few tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "A", "B", "C", "D", "2", "True", "False", *(f"w{n}" for n in range(40))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("model")
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT, **special).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=1.0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def subject(folder):
    return open_subject(folder, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """L-Eval's six files, with one document each."""
    folder = tmp_path_factory.mktemp("leval")
    for task, (question, outputs) in QUESTION.items():
        row = {"input": STORY, "instructions": [question] * len(outputs), "outputs": outputs}
        (folder / f"{task}.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _without_environment(monkeypatch):
    """The harness asks pip for everything that is installed, for seconds, whenever it evaluates."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture
def watched(monkeypatch):
    """(inv_freq, prompt ids) of every generation, whose answers end after 8 tokens."""
    seen = []
    theirs = HarnessModel.__base__
    generate = theirs._model_generate

    def watch(self, context, max_length, **kwargs):
        seen.append((self.model.model.rotary_emb.inv_freq.clone(), context))
        return generate(self, context, context.shape[1] + 8, **kwargs)

    monkeypatch.setattr(theirs, "_model_generate", watch)
    return seen


@pytest.fixture
def asked(monkeypatch):
    """Grows with every method that the harness is asked about."""
    seen = []
    real = harness._HARNESS.simple_evaluate
    monkeypatch.setattr(
        harness._HARNESS, "simple_evaluate", lambda **options: seen.append(options) or real(**options)
    )
    return seen


def one(found):
    (only,) = found
    return only


def plain(tasks, metadata):
    """The tasks as lm_eval itself loads them, with --include_path and --metadata."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASK_FOLDER), include_defaults=False, metadata=metadata)
    return manager.load(tasks)


def test_the_method_that_is_asked_for_rotates(subject, data, watched):
    methods = candidates(["own", "yarn", "resonance-ntk:factor=4"], {"factor": 2.0})
    own = subject.model.model.rotary_emb.inv_freq.clone()
    list(run_suite(subject, methods, ["gsm100"], folder=data, length=LENGTH))
    rotated = [inv_freq for inv_freq, _ in watched]
    assert len(rotated) == 3
    for inv_freq, (name, factor) in zip(rotated[1:], [("yarn", 2.0), ("resonance-ntk", 4)], strict=True):
        (table,) = extension(rope_of(subject.model), name, factor=factor).tables().values()
        torch.testing.assert_close(inv_freq, torch.as_tensor(table.inv_freq, dtype=inv_freq.dtype))
    torch.testing.assert_close(rotated[0], own)
    torch.testing.assert_close(subject.model.model.rotary_emb.inv_freq, own)


@pytest.mark.usefixtures("watched")
def test_scores_are_those_of_what_the_model_said(subject, data):
    metadata = {"leval_data": str(data)}
    found = one(evaluate(subject, candidates([]), ["leval"], length=2048, batch_size=4, metadata=metadata))
    each = {task: found.scores[f"leval_{task}"]["leval_score"] for task in QUESTION}
    for task, (_, outputs) in QUESTION.items():
        said = [sample["resps"][0][0] for sample in found.samples[f"leval_{task}"]]
        if task == "sci_fi":
            said = [f"{a} [fact: {b}]" for a, b in zip(said[::2], said[1::2], strict=True)]
        assert each[task] == score(task, said, outputs)
    assert found.scores["leval"]["leval_score"] == pytest.approx(sum(each.values()) / 6)


@pytest.mark.usefixtures("watched")
def test_a_method_that_is_finished_is_not_asked_again(subject, data, tmp_path, asked):
    records, methods = Records(tmp_path / "scores"), candidates(["own", "yarn"], {"factor": 2.0})

    def run(**options):
        options = {"folder": data, "length": LENGTH, "records": records, **options}
        found = list(run_suite(subject, methods, ["gsm100"], **options))
        return [(r.method, r.scores, r.seconds) for r in found]

    first = run()
    assert len(asked) == 2
    assert run() == first
    assert len(asked) == 2
    run(limit=1)
    assert len(asked) == 4


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("change", ["file", "folder", "prompts", "task", "template"])
def test_what_decides_the_scores_is_asked_again(subject, data, tmp_path, asked, monkeypatch, change):
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    package = Path(shutil.copytree(TASK_FOLDER.parent, tmp_path / "leval"))
    monkeypatch.setattr(harness, "TASK_FOLDER", package / "tasks")
    monkeypatch.setenv("LEVAL_DATA", str(folder))
    options = {"length": LENGTH, "max_length": 2 * LENGTH, "limit": 1, "apply_chat_template": True}

    def run():
        return one(
            evaluate(
                subject, candidates([]), ["leval_gsm100"], records=Records(tmp_path / "scores"), **options
            )
        )

    run()
    run()
    assert len(asked) == 1
    if change == "folder":
        folder = Path(shutil.copytree(data, tmp_path / "other"))
        monkeypatch.setenv("LEVAL_DATA", str(folder))
    if change in ("file", "folder"):
        file = folder / "gsm100.jsonl"
        file.write_text(file.read_text().replace("1 + 1", "1 + 0"))
    if change in ("prompts", "task"):
        file = package / {"prompts": "prompts.py", "task": "tasks/gsm100.yaml"}[change]
        file.write_text(file.read_text() + "# changed\n")
    if change == "template":
        monkeypatch.setattr(subject.tokenizer, "chat_template", CHAT + " ")
    run()
    assert len(asked) == 2


def test_the_files_of_l_eval_decide_where_its_tasks_may_be_asked(data, tmp_path, monkeypatch):
    named = {"leval_data": str(data)}
    assert _leval(["niah_single_1"], None, named) == ""
    of_files = _leval(["leval_tpo"], None, named)
    assert of_files == _leval(["mine"], tmp_path, named) != _leval(["leval"], None, {})
    monkeypatch.setenv("LEVAL_DATA", str(data))
    assert _leval(["leval"], None, {"leval_data": None}) == of_files
    assert _leval(["leval"], None, {"leval_data": str(tmp_path)}) == _leval(
        ["leval"], tmp_path, {"leval_data": "no"}
    )


BY_LENGTH = {
    "longrope": {"factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [3.0] * 8},
    "dynamic": {"factor": 2.0},
}


@pytest.fixture(params=list(BY_LENGTH))
def by_length(folder, tmp_path, request):
    """by_length(trained) -> a folder with the model, whose table is another beyond the trained length."""

    def make(trained):
        copy = Path(shutil.copytree(folder, tmp_path / "model"))
        config = json.loads((copy / "config.json").read_text())
        rope = {
            "rope_type": request.param,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": trained,
            **BY_LENGTH[request.param],
        }
        changed = {**config, "max_position_embeddings": trained, "rope_parameters": rope}
        (copy / "config.json").write_text(json.dumps(changed))
        return copy

    return make


def stock(folder, ids):
    """transformers' own model after it has read ``ids``, and its logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model, model(ids).logits


def test_the_model_as_it_is_has_the_table_of_each_prompt(by_length, data, watched, tmp_path, asked):
    """sci_fi asks about the document and, shortly, about the world: 512 tokens are left for an answer."""
    folder = by_length(600)
    subject = open_subject(folder, device="cpu")
    name = "longrope" if "longrope" in str(subject.model.config) else "dynamic-ntk"
    options = {"folder": data, "length": LENGTH, "records": Records(tmp_path / "scores")}
    list(run_suite(subject, candidates(["own"]), ["sci_fi"], **options))
    seen = {ids.shape[1]: inv_freq for inv_freq, ids in watched}
    short, long = sorted(seen)
    assert short + 512 < 600 < LENGTH < long + 512
    for tokens, inv_freq in seen.items():
        theirs, _ = stock(folder, torch.zeros(1, tokens + 512, dtype=torch.long))
        torch.testing.assert_close(inv_freq, theirs.model.rotary_emb.inv_freq)
    assert not torch.allclose(seen[short], seen[long])
    list(run_suite(subject, candidates([name]), ["sci_fi"], **options))
    assert len(asked) == 2, "the method has the table of the length throughout"
    assert torch.equal(watched[-1][0], watched[-2][0])


def test_likelihoods_of_the_model_as_it_is(by_length, data):
    folder = by_length(1000)
    subject = open_subject(folder, device="cpu")
    metadata = {"leval_data": str(data)}
    found = one(
        evaluate(subject, candidates([]), ["leval_tpo_loglikelihood"], length=4096, metadata=metadata)
    )
    (sample, *_) = found.samples["leval_tpo_loglikelihood"]
    ids = subject.tokenizer(sample["arguments"][0][0], return_tensors="pt").input_ids
    assert 900 < ids.shape[1] < 1000
    letters = subject.tokenizer.convert_tokens_to_ids(["A", "B", "C", "D"])
    wanted = stock(folder, ids)[1][0, -1].log_softmax(-1)[letters]
    assert [float(answer[0][0]) for answer in sample["resps"]] == pytest.approx(wanted.tolist(), abs=1e-4)


def evaluations(monkeypatch, scores):
    """run_suite with a harness that finds ``scores``; what it was asked for."""
    asked = {}

    def found(subject, methods, tasks, **options):
        asked.update(options, tasks=tasks)
        return [Evaluation(method="own", scores=scores, samples={}, seconds=1.0)]

    monkeypatch.setattr("resrope.longtext.leval.suite.evaluate", found)
    return asked


def test_the_mean_is_that_of_all_six(monkeypatch):
    asked = evaluations(
        monkeypatch, {f"leval_{task}": {"leval_score": 10.0 * n} for n, task in enumerate(QUESTION)}
    )
    suite = one(run_suite(None, [], list(QUESTION), folder=None, length=4096, limit=3))
    assert suite.scores == {task: 10.0 * n for n, task in enumerate(QUESTION)}
    assert suite.mean == 25.0
    assert (asked["length"], asked["max_length"], asked["limit"]) == (4096, 4096 + 1024, 3)
    assert one(run_suite(None, [], ["tpo", "codeU"], folder=None, length=4096)).mean is None


def test_likelihoods_are_in_percent_too(monkeypatch):
    names = [f"leval_{task}_loglikelihood" for task in ("coursera", "quality", "tpo")]
    asked = evaluations(monkeypatch, {name: {"acc": 0.25 * n} for n, name in enumerate(names)})
    tasks = wanted_tasks([], None, loglikelihood=True)
    suite = one(run_suite(None, [], tasks, folder=None, length=4096, loglikelihood=True))
    assert suite.scores == {"coursera": 0.0, "quality": 25.0, "tpo": 50.0}
    assert suite.mean == 25.0
    assert asked["tasks"] == names


def test_the_model_reads_the_whole_prompt(subject, data, watched):
    suite = run_suite(subject, candidates([]), ["tpo"], folder=data, length=LENGTH, limit=1)
    assert one(suite).mean is None
    words = subject.tokenizer.convert_ids_to_tokens(watched[0][1][0])
    cut = shortened("tpo", STORY, LENGTH - 512, lambda text: len(text.split()))
    assert len(words) == len((system_prompt("tpo") + cut).split()) + 22
    assert [w for w in words if w.startswith("w")] == cut.split()


def test_a_template_without_system_turns_gets_the_system_prompt_all_the_same(subject, data, watched):
    run = run_suite(
        subject, candidates([]), ["gsm100"], folder=data, length=LENGTH, apply_chat_template=True, limit=1
    )
    one(run)
    text = subject.tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert text == "<user>x<assistant>"
    system = len(system_prompt("gsm100").split())
    assert len(watched[0][1][0]) == system + 512 + 3


def test_likelihoods_of_the_letters(subject, data):
    found = one(
        evaluate(
            subject,
            candidates([]),
            ["leval_loglikelihood"],
            length=2048,
            metadata={"leval_data": str(data)},
        )
    )
    accuracy = {
        task: found.scores[f"leval_{task}_loglikelihood"]["acc"] for task in ("coursera", "quality", "tpo")
    }
    assert len(found.samples["leval_coursera_loglikelihood"]) == 1  # of AB and C, only C
    assert found.scores["leval_loglikelihood"]["acc"] == pytest.approx(sum(accuracy.values()) / 3)
    (sample,) = found.samples["leval_coursera_loglikelihood"]
    context = sample["arguments"][0][0]
    ids = subject.tokenizer(context, return_tensors="pt").input_ids
    letters = subject.tokenizer.convert_tokens_to_ids(["A", "B", "C", "D"])
    with torch.no_grad():
        logits = subject.model(ids).logits[0, -1].log_softmax(-1)[letters]
    assert [float(answer[0][0]) for answer in sample["resps"]] == pytest.approx(logits.tolist(), abs=1e-4)
    assert accuracy["coursera"] == float(logits.argmax() == 2)


def test_lm_eval_itself_loads_the_tasks(folder, data, monkeypatch):
    monkeypatch.setenv("LEVAL_DATA", str(data))
    loaded = plain(["leval", "leval_tpo_loglikelihood"], {"pretrained": str(folder), "max_length": 2048})
    assert set(loaded["tasks"]) == {f"leval_{task}" for task in QUESTION} | {"leval_tpo_loglikelihood"}
    task = loaded["tasks"]["leval_tpo"]
    assert len(task.test_docs()) == 3
    assert task.config.generation_kwargs == {"do_sample": False, "max_gen_toks": 512, "until": []}
    context = task.fewshot_context(task.test_docs()[0], 0)
    assert context.startswith(system_prompt("tpo") + "Document is as follows. w0 w1")
    assert context.endswith("explanation \nAnswer:")
    world = loaded["tasks"]["leval_sci_fi"].test_docs()[1]
    assert loaded["tasks"]["leval_sci_fi"].fewshot_context(world, 0) == world["prompt"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "--metadata must tell leval_length, in tokens, or --model_args max_length"),
        ({"leval_length": 2048, "max_length": 2048}, "max_length must be at least leval_length"),
        ({"leval_length": 2048, "pretrained": None}, "name a tokenizer"),
    ],
)
def test_what_lm_eval_was_not_told_is_named(folder, data, metadata, message):
    with pytest.raises(ValueError, match=message):
        plain(["leval_tpo"], {"pretrained": str(folder), "leval_data": str(data), **metadata})


def test_a_prompt_that_does_not_fit_is_an_error(subject, data, watched):
    before = logging.getLogger("lm_eval").level
    metadata = {"leval_data": str(data)}
    with pytest.raises(ValueError, match=r"a prompt has \d+ tokens, of a length of 600 only 88 are left"):
        # The task believes in a larger window than the model has.
        one(
            evaluate(
                subject, candidates([]), ["leval_tpo"], length=600, metadata={**metadata, "max_length": 2048}
            )
        )
    assert not watched
    assert logging.getLogger("lm_eval").level == before


def test_answers_that_leave_no_room_for_a_prompt_are_an_error(subject, data, watched):
    metadata = {"leval_data": str(data), "max_length": 2048}
    message = (
        r"^an answer may have 512 tokens \(max_gen_toks\), of a length of 512 none are left for the prompt$"
    )
    with pytest.raises(ValueError, match=message):
        one(evaluate(subject, candidates([]), ["leval_tpo"], length=512, metadata=metadata))
    assert not watched


def test_letters_after_a_prompt_that_does_not_fit_are_an_error(subject, data):
    metadata = {"leval_data": str(data), "max_length": 2048}
    with pytest.raises(ValueError, match="of a length of 100 only 101 are left"):
        one(evaluate(subject, candidates([]), ["leval_tpo_loglikelihood"], length=100, metadata=metadata))


def test_metrics_are_what_was_measured():
    row = {"alias": "x", "acc,none": 1, "acc_stderr,none": 0.1, "f1_stderr,none": "N/A", "em,strict": -1.0}
    assert _metrics({**row, "4096,none": -1, "8192,none": 0.5}) == {
        "acc": 1.0,
        "em,strict": -1.0,
        "8192": 0.5,
    }


def test_a_task_that_cannot_load_is_an_error(subject, tmp_path):
    (tmp_path / "broken.yaml").write_text(
        "task: broken\noutput_type: generate_until\ntest_split: test\ncustom_dataset: !function hook.fails\n"
    )
    (tmp_path / "hook.py").write_text("def fails(**_):\n    raise RuntimeError('no\\nnetwork')\n")
    with pytest.raises(ValueError, match="the harness cannot load broken: RuntimeError: no network"):
        one(evaluate(subject, candidates([]), ["broken"], length=512, include_path=tmp_path))


def test_a_tokenizer_without_a_chat_template_is_an_error(subject, data, monkeypatch):
    monkeypatch.setattr(subject.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="its tokenizer has no chat template to apply"):
        one(evaluate(subject, candidates([]), ["leval_tpo"], length=512, apply_chat_template=True))


def test_a_tokenizer_without_an_end_is_an_error(subject, data, monkeypatch):
    monkeypatch.setattr(subject.tokenizer, "_special_tokens_map", {})
    assert subject.tokenizer.eos_token_id is None
    with pytest.raises(ValueError, match=r": its tokenizer names no eos_token"):
        one(evaluate(subject, candidates([]), ["leval_tpo"], length=512, metadata={"leval_data": str(data)}))


def test_a_chat_template_that_cannot_be_used_is_an_error(subject, data, monkeypatch):
    monkeypatch.setattr(subject.tokenizer, "chat_template", "{{ raise_exception('tools only') }}")
    metadata = {"leval_data": str(data)}
    with pytest.raises(ValueError, match=r": its chat template cannot be used: tools only$"):
        one(
            evaluate(
                subject,
                candidates([]),
                ["leval_tpo"],
                length=2048,
                apply_chat_template=True,
                metadata=metadata,
            )
        )


def test_the_suite_is_what_the_folder_holds(tmp_path, data):
    assert wanted_tasks([], data) == list(QUESTION)
    assert wanted_tasks(["toefl", "tpo", "gsm"], None) == ["tpo", "gsm100"]
    (tmp_path / "tpo.jsonl").touch()
    assert wanted_tasks([], tmp_path) == ["tpo"]
    (tmp_path / "tpo.jsonl").unlink()
    with pytest.raises(ValueError, match=r"must be a folder with coursera\.jsonl"):
        wanted_tasks([], tmp_path)
    with pytest.raises(ValueError, match="options to choose from are coursera, quality, tpo, got codeU"):
        wanted_tasks(["tpo", "codeU"], None, loglikelihood=True)
