"""The Triton client with a mock server that speaks Triton's protocol, and the cost of a rate."""

import asyncio
import io
import json
import re
import sys
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest

from train_model.cli import UserError
from trt_code.triton import client, cost
from trt_code.triton.cost import Rate

OTHER_ANSWERS = {
    "numbers": ("FP32", [1, 1], bytes(4)),
    "no sentence": ("BYTES", [0, 1], b""),
    "two sentences": ("BYTES", [2, 1], b"\1\0\0\0a" * 2),
    "one axis": ("BYTES", [1], b"\1\0\0\0a"),
    "not UTF-8": ("BYTES", [1, 1], b"\1\0\0\0\xff"),
    "two lines": ("BYTES", [1, 1], b"\3\0\0\0a\nb"),
    "cut": ("BYTES", [1, 1], b"\1\0"),
    "another length": ("BYTES", [1, 1], b"\xff\xff\xff\xffa"),
    "an unknown type": ("TEXT", [1, 1], b"a"),
}


@pytest.fixture
def upper_case_server():
    """A stand-in for Triton on the loopback, which "translates" to upper case.

    It refuses "bad", gives no warnings with "old", and one of ``OTHER_ANSWERS`` with "other".
    """
    pytest.importorskip("tritonclient.grpc", reason="no tritonclient[grpc] in this environment")
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc
    from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
        requests = 0

        def ModelInfer(self, request, context):
            Service.requests += 1
            texts = deserialize_bytes_tensor(request.raw_input_contents[0])
            assert request.model_name == "lite_translate"
            assert request.inputs[0].name == "TEXT"
            assert list(request.inputs[0].shape) == [len(texts), 1]
            if b"slow" in texts:
                time.sleep(2)
            if b"bad" in texts:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the text is bad")
            reply = service_pb2.ModelInferResponse(model_name=request.model_name)
            for name, answers in (
                ("TRANSLATION", [text.decode().upper() for text in texts]),
                ("WARNING", ["it is odd" if text == b"odd" else "" for text in texts]),
            ):
                if name == "WARNING" and b"old" in texts:
                    continue  # a repository written before this output existed
                output = reply.outputs.add(name=name, datatype="BYTES")
                output.shape.extend([len(texts), 1])
                rows = np.array([[answer.encode()] for answer in answers], object)
                raw = serialize_byte_tensor(rows).item()
                if texts[0].startswith(b"other "):
                    output.datatype, shape, raw = OTHER_ANSWERS[texts[0].decode().partition(" ")[2]]
                    output.ClearField("shape")
                    output.shape.extend(shape)
                reply.raw_output_contents.append(raw)
            return reply

    server = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", Service
    server.stop(0).wait()


@pytest.mark.parametrize(("concurrency", "batch", "requests"), [(1, 1, 50), (8, 1, 50), (3, 7, 8)])
def test_every_sentence_comes_back_in_its_place(upper_case_server, concurrency, batch, requests):
    url, service = upper_case_server
    sentences = [f"sentence {i} ü" for i in range(50)]
    measured = asyncio.run(client.translate(url, sentences, concurrency, batch))
    assert measured.translations == [sentence.upper() for sentence in sentences]
    assert len(measured.latencies_ms) == service.requests == requests


def test_a_repository_without_warnings_is_named(upper_case_server):
    url, _ = upper_case_server
    with pytest.raises(UserError, match=r"has no output WARNING; write its repository again"):
        asyncio.run(client.translate(url, ["old"]))


@pytest.mark.parametrize("answer", OTHER_ANSWERS)
def test_an_answer_of_another_form(upper_case_server, answer):
    url, _ = upper_case_server
    with pytest.raises(UserError, match=r"line 1: the server's TRANSLATION is not one line"):
        asyncio.run(client.translate(url, [f"other {answer}"]))


def test_a_server_that_does_not_answer_is_one_line(upper_case_server):
    url, _ = upper_case_server
    start = time.monotonic()
    with pytest.raises(UserError, match=r"line 2: .*(?i:deadline)"):
        asyncio.run(client.translate(url, ["a", "slow"], timeout=0.3))
    assert time.monotonic() - start < 1.5


def test_a_refused_sentence_is_named_by_its_line(upper_case_server):
    url, _ = upper_case_server
    with pytest.raises(UserError, match=r"line 3: .*the text is bad"):
        asyncio.run(client.translate(url, ["a", "b", "bad", "c"], concurrency=2))


def test_a_server_that_does_not_listen(upper_case_server):
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1, line 1: "):
        asyncio.run(client.translate("127.0.0.1:1", ["a"]))


def test_command_line_measures(upper_case_server, monkeypatch, capsys, tmp_path):
    url, _ = upper_case_server
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\nodd\n"))
    client.main(["--url", url, "--measure", str(tmp_path / "load.json")])
    assert capsys.readouterr() == ("ONE\nODD\n", "warning: line 2: it is odd\n")
    measured = json.loads((tmp_path / "load.json").read_text())
    assert measured["sentences"] == 2
    assert measured["sentences_per_s"] == pytest.approx(2 / measured["seconds"])
    (rate,) = cost.read_rates(tmp_path / "load.json")
    assert rate == Rate(url, measured["sentences_per_s"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "no sentences"), ("a\n\nb\n", "line 2 is empty"), ("a\n \n", "line 2")],
)
def test_bad_input(monkeypatch, text, reason):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    with pytest.raises(UserError, match=reason):
        client.main([])


def test_without_tritonclient_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.aio", None)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(UserError, match=r"pip install 'tritonclient\[grpc\]'"):
        asyncio.run(client.translate("x", ["a"]))


def test_cost_by_hand():
    rate = Rate("x", 1000)  # a million sentences take 1000 s
    assert cost.cost_per_million(rate, price_per_hour=3.6, utilisation=1) == pytest.approx(1)
    assert cost.cost_per_million(rate, price_per_hour=3.6, utilisation=0.5) == pytest.approx(2)
    assert cost.gpus_for(rate, peak=1001, utilisation=1) == 2
    assert cost.gpus_for(rate, peak=1000, utilisation=0.5) == 2


def test_cost_of_the_bench_table(tmp_path, capsys):
    rows = [
        {"runner": "trt", "precision": "fp16", "device": "cuda", "bs": 16, "sl": 32}
        | {"sentences_per_s": 500.0},
        {"runner": "ort", "precision": "fp16", "device": "cpu", "sentences_per_s": None},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"rows": rows}))
    cost.main(["--measured", str(path), "--price-per-hour", "1.8", "--utilisation", "1"])
    (line,) = capsys.readouterr().out.splitlines()
    assert " ".join(line.split()) == "trt fp16 cuda 16x32 500.0 sentences/s 1.000 a million"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": []}', '{"sentences_per_s": 0}'])
def test_a_price_needs_a_measurement(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="measure again"):
        cost.main(["--measured", str(tmp_path / "x.json"), "--price-per-hour", "1"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--price-per-hour", "0"], "--price-per-hour is at least 1e-06, not '0'"),
        (["--utilisation", "1.5"], "--utilisation is at most 1, not '1.5'"),
    ],
)
def test_impossible_prices(flags, words):
    with pytest.raises(UserError, match=words):
        cost.main(["--measured", "x", "--price-per-hour", "1", *flags])


def test_costs_that_the_page_shows_follow_from_their_rates():
    page = (Path(__file__).parents[3] / "doc" / "serving.md").read_text(encoding="utf-8")
    shown = re.findall(r"^(.*) +([\d.]+) sentences/s +([\d.]+) a million$", page, re.M)
    assert len(shown) >= 3
    for what, rate, price in shown:
        expected = cost.cost_per_million(
            Rate(what, float(rate)), price_per_hour=2.5, utilisation=0.5
        )
        assert float(price) == pytest.approx(expected, abs=1e-3)
