import json
import math
import random
import string

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import resrope
from resrope.cli import main
from resrope.longtext import perplexity as perplexity_module

LENGTHS = (128, 512, 1024)


@pytest.fixture(autouse=True)
def texts(tmp_path, monkeypatch):
    """Six texts of 600 to 1600 bytes, in the working folder."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    for i in range(6):
        words = "".join(draw.choices(string.ascii_lowercase + " ", k=600 + 200 * i))
        (tmp_path / f"text_{i}.txt").write_text(words)
    return sorted(tmp_path.glob("text_*.txt"))


@pytest.fixture
def call(capsys, letters):
    """Exit code, standard output, standard error of `resrope perplexity`."""

    def run(arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["perplexity", str(letters), *arguments.split()])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


@pytest.fixture
def answer(call):
    def ask(arguments):
        code, out, err = call(f"{arguments} --json")
        assert code == 0, err
        return json.loads(out)

    return ask


@pytest.fixture
def refused(call):
    def ask(arguments):
        code, out, err = call(arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return ask


def full_forward(letters, text, count, method=None, **parameters):
    """Losses [count - 1] of one forward of the stock model."""
    model = AutoModelForCausalLM.from_pretrained(letters, dtype=torch.float32)
    if method is not None:
        resrope.apply(model, method, **parameters)
    ids = torch.tensor([AutoTokenizer.from_pretrained(letters)(text.read_text()).input_ids[:count]])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")


def test_one_text_gives_what_a_full_forward_gives_at_every_length_and_block(answer, letters, texts):
    found = answer(f"--text {texts[5]} --lengths 128,512,1024 --block 256 --method rope,yarn")
    for name, options in (("rope", {}), ("yarn", {"method": "yarn", "factor": 2})):
        losses = full_forward(letters, texts[5], 1024, **options)
        told = found["methods"][name]
        for length in LENGTHS:
            assert told["by_length"][str(length)] == pytest.approx(
                losses[: length - 1].mean().exp().item(), rel=1e-4
            )
        for block in told["by_block"]:
            part = losses[max(block["start"] - 1, 0) : block["end"] - 1]
            assert block["ppl"] == pytest.approx(part.mean().exp().item(), rel=1e-4)
        assert [b["start"] for b in told["by_block"]] == [0, 256, 512, 768]
    assert found["methods"]["rope"]["by_length"]["1024"] != found["methods"]["yarn"]["by_length"]["1024"]


def test_dynamic_ntk_has_the_base_of_each_length(answer, letters, texts):
    found = answer(f"--text {texts[5]} --lengths 512,768,1024 --block 256 --method dynamic-ntk")
    told = found["methods"]["dynamic-ntk"]
    for length in (512, 768, 1024):
        losses = full_forward(letters, texts[5], length, "dynamic-ntk", length=length)
        assert told["by_length"][str(length)] == pytest.approx(losses.mean().exp().item(), rel=1e-4)
        last = next(b for b in told["by_block"] if b["end"] == length)
        assert last["ppl"] == pytest.approx(losses[-256:].mean().exp().item(), rel=1e-4)


def test_texts_count_by_their_tokens_and_only_where_they_reach(answer, letters, texts):
    found = answer("--text . --lengths 128,512,1024")
    assert found["texts_by_length"] == {"128": 6, "512": 6, "1024": 3}
    assert list(found["texts"]) == [t.name for t in texts]
    losses = [full_forward(letters, t, 1024) for t in texts[3:]]
    mean = torch.cat(losses).mean()
    assert found["methods"]["own"]["by_length"]["1024"] == pytest.approx(mean.exp().item(), rel=1e-4)
    low, high = found["methods"]["own"]["by_length_interval"]["512"]
    assert low < found["methods"]["own"]["by_length"]["512"] < high
    assert found["methods"]["own"]["by_length_interval"]["1024"] is None  # three texts are too few
    assert found["methods"]["own"]["by_text"]["text_0.txt"]["1024"] is None


def test_a_text_that_reaches_no_length_is_named(answer):
    found = answer("--text text_0.txt --text text_5.txt --lengths 700,1024")
    assert found["left_out"] == ["text_0.txt"]
    assert found["texts_by_length"] == {"700": 1, "1024": 1}


def test_resonance_is_set_against_the_same_method_without_it(answer):
    found = answer("--text . --lengths 128,512 --method yarn,resonance-yarn --factor 4")
    yarn, resonant = (found["methods"][k]["by_length"]["512"] for k in ("yarn", "resonance-yarn"))
    told = found["resonance"]["yarn"]["by_length"]["512"]
    assert told["ratio"] == pytest.approx(resonant / yarn)
    assert told["low"] <= told["ratio"] <= told["high"]
    assert told["certain"] == (not told["low"] <= 1 <= told["high"])


def test_sliding_windows(answer, letters, texts):
    found = answer(f"--text {texts[5]} --lengths 1024 --window 256 --stride 128")
    ids = AutoTokenizer.from_pretrained(letters)(texts[5].read_text()).input_ids[:1024]
    model = AutoModelForCausalLM.from_pretrained(letters, dtype=torch.float32)
    nats, scored = 0.0, 1
    for start in range(0, 1024 - 128, 128):
        part = torch.tensor([ids[start : start + 256]])
        labels = part.clone()
        labels[:, : scored - start] = -100
        with torch.no_grad():
            nats += model(part, labels=labels).loss.item() * (start + 256 - scored)
        scored = start + 256
    assert found["methods"]["own"]["by_length"]["1024"] == pytest.approx(math.exp(nats / 1023), rel=1e-4)


def test_what_is_finished_is_not_computed_again(answer, call, monkeypatch):
    first = answer("--text . --lengths 128,512 --method rope")
    count = []
    real = perplexity_module.token_losses
    monkeypatch.setattr(perplexity_module, "token_losses", lambda *a, **k: count.append(1) or real(*a, **k))
    again = answer("--text . --lengths 128,256 --method rope")
    assert not count
    assert again["methods"]["rope"]["by_length"]["128"] == first["methods"]["rope"]["by_length"]["128"]
    answer("--text . --lengths 128,512 --method rope,linear:factor=4")
    assert len(count) == 6


def test_a_run_that_was_stopped_goes_on(call, answer, monkeypatch):
    real, count = perplexity_module.token_losses, []

    def stopping(*arguments, **options):
        if len(count) == 4:
            raise KeyboardInterrupt
        count.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(perplexity_module, "token_losses", stopping)
    code, _, err = call("--text . --lengths 128,512")
    assert code == 130
    assert "run the same command again" in err
    monkeypatch.setattr(perplexity_module, "token_losses", lambda *a, **k: count.append(1) or real(*a, **k))
    answer("--text . --lengths 128,512")
    assert len(count) == 6


def test_report_files_and_tables(call, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/resrope", "perplexity", "a model"])
    code, out, _ = call("--text . --lengths 128,512,1024 --method rope,yarn,resonance-yarn --out made")
    assert code == 0
    for words in ("Perplexity of the first tokens", " 1024*", "What Resonance changes", "0 – 1024*"):
        assert words in out
    page = (tmp_path / "made" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page.replace("http-equiv", "")
    data = json.loads((tmp_path / "made" / "report.json").read_text())
    assert data["made"]["command"] == "resrope perplexity 'a model'"
    for name in ("report.md", "lengths.png", "positions.png", "resonance.png"):
        assert (tmp_path / "made" / name).stat().st_size > 500


def test_usual_lengths_and_a_seeded_sample(answer, texts):
    found = answer("--text . --documents 3 --seed 1")
    assert found["lengths"] == ([512, 1024] if max(found["texts"].values()) >= 1024 else [512])
    assert len(found["texts"]) == 3
    assert answer("--text . --documents 3 --seed 1")["texts"] == found["texts"]
    assert any(answer(f"--text . --documents 3 --seed {s}")["texts"] != found["texts"] for s in (2, 3, 4))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--lengths 512", "--text must be given"),
        (
            "--text text_5.txt --lengths 512,4096",
            "no text has 4096 tokens: the longest, text_5.txt, has 1600",
        ),
        ("--text missing.txt --lengths 512", "missing.txt"),
        ("--text . --lengths 512 --method yrn", "method must be among own, rope"),
        ("--text . --lengths 512 --method yarn,yarn", "yarn is given twice"),
        ("--text . --lengths 512 --method own:factor=2", "takes no parameters"),
        ("--text . --lengths 512 --method yarn:factor=x", "name=number"),
        ("--text . --lengths 512 --method abf", "rope_theta"),
        ("--text . --lengths 1", "every length must be an integer >= 2"),
        ("--text . --lengths 512,x", "--lengths takes integers"),
        ("--text . --lengths 512 --window 64", "window and stride must be given together"),
        ("--text . --lengths 512 --window 64 --stride 65", "stride must be an integer"),
        ("--text . --lengths 512 --dtype int8", "dtype must be among float32"),
        ("--text . --lengths 512 --device tpu9", "device must be one that this torch has"),
        ("--text . --documents 99", "from 1 to the 6"),
        ("--text . --lengths 512 --factor 2 --set factor=3", "factor is given twice"),
    ],
)
def test_mistakes(refused, arguments, words):
    assert words in refused(arguments)


def test_an_empty_and_a_wrongly_encoded_text(refused, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1") * 100)
    assert "empty.txt" in refused("--text empty.txt")
    assert "UTF-8" in refused("--text latin.txt")


def test_a_length_beyond_memory(refused, monkeypatch):
    monkeypatch.setattr("resrope.longtext.memory.available", lambda device: 1 << 20)
    err = refused("--text text_5.txt --lengths 1024")
    assert "1024 tokens need" in err
    assert "fit" in err
