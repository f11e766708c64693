"""The SDK against a real server: every call, and every way in which a network, a proxy or an impostor can fail."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gnexec
from gnexec import Client, JobBody, Redundancy
from gnexec.errors import BadConfiguration, Refused, ServerUnreachable, StrangeAnswer
from gnexec.shapes import JobView
from gnexec.tlog import note, receipt
from gnexec.tokens import Scope
from tests.cli.middleman import Middleman, answer, change, cut, drop, lose, middleman
from tests.cli.volunteer import Volunteer
from tests.serving import ORIGIN, Server, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server in open mode."""
    with running_server(tmp_path_factory.mktemp("server"), "--open") as running:
        yield running


@pytest.fixture
def volunteer(server: Server) -> Iterator[Volunteer]:
    """Have a volunteer for that server."""
    made = Volunteer(server.url)
    yield made
    made.close()


@pytest.fixture
def between(server: Server) -> Iterator[Middleman]:
    """Stand between client and server."""
    with middleman(server.url) as made:
        yield made


@pytest.fixture
def client(between: Middleman) -> Iterator[Client]:
    """Have a client that speaks through the middleman."""
    with Client(between.url) as made:
        yield made


def done(client: Client, volunteer: Volunteer, name: str, stdout: str = "", **outputs: str) -> int:
    """Have a job done that prints this and writes these outputs; return its id."""
    job = client.submit(["make", name], outputs=list(outputs), name=name)
    volunteer.do_next(stdout, outputs=outputs)
    return job.id


def test_client_says_who_answers(client: Client) -> None:
    """The server names itself, and says that it is open."""
    hey = client.hey()
    assert (hey.i_am, hey.origin, hey.open) == ("gnexec", ORIGIN, True)


def test_job_goes_out_and_comes_back(client: Client, volunteer: Volunteer, tmp_path: Path) -> None:
    """What was handed in with files, bytes and digests is done, and all of its result can be read."""
    (tmp_path / "a.txt").write_bytes(b"from a file")
    digest = client.upload(b"uploaded before")
    seen: list[JobView] = []
    job = client.submit(
        ["join", "a", "b", "c"],
        inputs={"a": tmp_path / "a.txt", "in/b": b"from memory", "c": digest},
        outputs=["out/joined.txt"],
        env={"MODE": "plain"},
        seed=7,
        name="a test of everything",
    )
    assert (job.created, job.state, job.name) == (True, "queued", "a test of everything")
    assert client.explain(job.id).needed == 1
    taken = volunteer.take()
    assert taken["argv"] == ["join", "a", "b", "c"]
    assert taken["env"]["MODE"] == "plain"
    assert [volunteer.input(taken, path) for path in ("a", "in/b", "c")] == [
        b"from a file",
        b"from memory",
        b"uploaded before",
    ]
    volunteer.tell(taken, 0.5, "half\n")
    assert client.tail(job.id) == b"half\n"
    volunteer.give(taken, "half\nall\n", stderr="a warning\n", outputs={"out/joined.txt": "abc"})
    view = client.wait(job.id, on_progress=seen.append)
    assert (view.state, view.outcome, view.attempts) == ("succeeded", "success", 1)
    assert seen[-1] == view
    assert client.stdout(job.id) == b"half\nall\n"
    assert client.stderr(job.id) == b"a warning\n"
    assert client.output(job.id, "out/joined.txt") == b"abc"
    assert [attempt.verdict for attempt in client.attempts(job.id).attempts] == ["valid"]
    assert client.result(job.id).outputs.keys() == {"out/joined.txt"}


def test_receipt_of_a_job_verifies_offline(client: Client, server: Server, volunteer: Volunteer) -> None:
    """With the log's public key alone, each entry about the job is shown to be in the log."""
    job = done(client, volunteer, "receipt")
    found = client.receipt(job).receipts
    verifier = note.parse_vkey(server.vkey)
    assert len(found) >= 2
    for view in found:
        proof = receipt.parse_receipt(view.proof.encode())
        assert proof.index == view.seq
        receipt.verify_receipt(proof, view.leaf.encode(), [verifier], ORIGIN)


def test_submit_many_keeps_their_order(client: Client) -> None:
    """Jobs handed in together come back in the same order, each of them new."""
    views = client.submit_many([client.body(["many", str(k)]) for k in range(5)])
    assert [view.cmd for view in views] == [f"many {k}" for k in range(5)]
    assert [view.id for view in views] == list(range(views[0].id, views[0].id + 5))
    for view in views:
        client.cancel(view.id)


def test_cancelled_job_is_cancelled(client: Client) -> None:
    """Its only owner withdraws, and it is over."""
    job = client.submit(["never"])
    assert client.cancel(job.id).state == "cancelled"
    assert client.wait(job.id).state == "cancelled"


def test_wait_beyond_its_time_raises_timeout_error(client: Client) -> None:
    """A job that nobody takes is not waited for any longer than was asked."""
    job = client.submit(["nobody takes this"])
    with pytest.raises(TimeoutError, match="queued"):
        client.wait(job.id, timeout_s=0.2)
    client.cancel(job.id)


def test_output_of_an_undecided_job_is_not_found(client: Client) -> None:
    """There is nothing to fetch before there is a result."""
    job = client.submit(["later"])
    with pytest.raises(Refused, match="queued") as caught:
        client.stdout(job.id)
    assert caught.value.code == "not_found"
    client.cancel(job.id)


def test_refusal_carries_code_field_and_mend(client: Client) -> None:
    """What the server says about a wrong request reaches the caller whole."""
    with pytest.raises(Refused) as caught:
        client.submit(["x"], redundancy=Redundancy(replicas=3, quorum=3))
    assert (caught.value.code, caught.value.status, caught.value.field) == ("invalid", 422, "redundancy.quorum")
    assert caught.value.mend


def test_options_beside_a_whole_job_are_an_error(client: Client) -> None:
    """A JobBody says everything; options beside it would be lost."""
    with pytest.raises(TypeError):
        client.submit(JobBody(argv=("x",)), name="lost")


def test_lost_reply_to_a_submission_makes_no_second_job(client: Client, between: Middleman) -> None:
    """The server took the job, the reply was lost, the client asked again: there is one job."""
    between.once("POST /v1/jobs", lose, lose)
    first = client.submit(["once"], force_recompute=True)
    second = client.submit(["once"], force_recompute=True)
    assert between.seen.count("POST /v1/jobs") == 4
    assert second.id == first.id + 1
    client.cancel(first.id)
    client.cancel(second.id)


def test_idempotency_key_used_again_brings_the_same_job(client: Client) -> None:
    """A key of the caller's own holds over two calls, and is refused for another job."""
    first = client.submit(["keyed"], key="mine", force_recompute=True)
    assert client.submit(["keyed"], key="mine", force_recompute=True).id == first.id
    with pytest.raises(Refused) as caught:
        client.submit(["keyed differently"], key="mine")
    assert caught.value.code == "key_reused"
    client.cancel(first.id)


@pytest.mark.parametrize(
    "deed",
    [
        drop,
        answer(502, b"<html>", Content_Type="text/html"),
        answer(503, Retry_After="0"),
        answer(503, Retry_After="Sun, 22 Nov 2026 07:00:00 GMT"),
        answer(429, Retry_After="0"),
        cut(3),
    ],
)
def test_fault_that_passes_is_tried_again(client: Client, between: Middleman, deed: object) -> None:
    """What may go well the next time does, without the caller noticing."""
    between.once("GET /hey", deed, deed)  # type: ignore[arg-type]
    assert client.hey().i_am == "gnexec"
    assert between.seen == ["GET /hey"] * 3


def test_fault_that_stays_is_raised_when_patience_ends(server: Server) -> None:
    """Without patience, one failure is the last."""
    with middleman(server.url) as between, Client(between.url, patience_s=0) as client:
        between.once("GET /hey", drop)
        with pytest.raises(ServerUnreachable) as caught:
            client.hey()
        assert caught.value.url == between.url
        assert between.seen == ["GET /hey"]


def test_unready_server_is_refused_with_its_reason_when_patience_ends(server: Server) -> None:
    """A server that says that it is away, and why, is quoted."""
    problem = b'{"type":"/problems/unready","title":"t","status":503,"detail":"It starts.","code":"unready"}'
    with middleman(server.url) as between, Client(between.url, patience_s=0) as client:
        between.once("GET /hey", answer(503, problem, Content_Type="application/problem+json"))
        with pytest.raises(Refused, match=r"It starts\.") as caught:
            client.hey()
        assert caught.value.code == "unready"


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (answer(200, b"<html>welcome</html>", Content_Type="text/html"), "not understood"),
        (answer(200, b"\xff"), "not understood"),
        (answer(404, b"<html>", Content_Type="text/html"), "404"),
        (answer(302, Location="http://127.0.0.1:1/hey"), "302"),
        (answer(418, b'{"status":"x"}', Content_Type="application/problem+json"), "418"),
        (
            answer(
                409,
                b'{"type":"t","title":"Of tomorrow","status":409,"detail":"d","code":"new_code"}',
                Content_Type="application/problem+json",
            ),
            "Of tomorrow",
        ),
    ],
)
def test_answer_of_an_impostor_is_strange(client: Client, between: Middleman, deed: object, words: str) -> None:
    """What is no gnexec server is told apart, is not tried again, and gets no second request."""
    between.once("GET /hey", deed)  # type: ignore[arg-type]
    with pytest.raises(StrangeAnswer, match=words):
        client.hey()
    assert between.seen == ["GET /hey"]


def test_redirect_gets_no_token(server: Server) -> None:
    """A server that points elsewhere does not get the access token sent there."""
    with middleman(server.url) as thief, middleman(server.url) as between, Client(between.url, "secret") as client:
        between.once("GET /hey", answer(307, Location=f"{thief.url}/hey"))
        with pytest.raises(StrangeAnswer):
            client.hey()
        assert thief.seen == []


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "127.0.0.1:8000",
            "ftp://example.org",
            "http://",
            "http://[",
            "http://x:y",
            "http://x:99999",
            "http://x:0",
        ),
        *("http://u:p@example.org", "http://x/?a=b", "http://x/#a", "http://x y", "http://x\n"),
    ],
)
def test_address_that_is_none_is_bad_configuration(url: str) -> None:
    """Found before anything is sent."""
    with pytest.raises(BadConfiguration, match="address"):
        Client(url)


def test_upload_of_what_the_server_has_sends_nothing(client: Client, between: Middleman, tmp_path: Path) -> None:
    """The second time, the digest alone is enough; it is the SHA-256 of the bytes."""
    data = b"bytes " * 100_000
    (tmp_path / "data").write_bytes(data)
    moved: list[int] = []
    digest = client.upload(tmp_path / "data", moved=moved.append)
    assert digest == hashlib.sha256(data).hexdigest()
    assert moved[-1] == len(data)
    assert client.upload(data) == digest
    assert [line.split()[0] for line in between.seen] == ["HEAD", "PUT", "HEAD"]


def test_upload_that_breaks_is_sent_again_whole(client: Client, between: Middleman, tmp_path: Path) -> None:
    """A lost reply and a dropped connection cost time only."""
    (tmp_path / "data").write_bytes(b"again")
    digest = hashlib.sha256(b"again").hexdigest()
    between.once(f"PUT /v1/blobs/{digest}", drop, lose)
    assert client.upload(tmp_path / "data") == digest


def test_upload_of_a_missing_file_names_it(client: Client, tmp_path: Path) -> None:
    """The caller learns which file it was."""
    with pytest.raises(BadConfiguration, match=r"missing\.txt"):
        client.upload(tmp_path / "missing.txt")


def test_download_that_breaks_goes_on_where_it_broke(
    client: Client, between: Middleman, volunteer: Volunteer, tmp_path: Path
) -> None:
    """The rest is asked for by range, and the whole is right."""
    text = "".join(f"{k}\n" for k in range(100_000))
    job = done(client, volunteer, "long", out=text)
    between.once(f"GET /v1/jobs/{job}/outputs/out", cut(1000), cut(50_000))
    client.download(job, "out", tmp_path / "out")
    assert (tmp_path / "out").read_text() == text
    assert between.ranges == ["bytes=1000-", "bytes=51000-"]


def test_download_from_a_server_without_ranges_begins_anew(
    client: Client, between: Middleman, volunteer: Volunteer
) -> None:
    """Whoever answers 200 to a range sends all of it, and that is what is kept."""
    job = done(client, volunteer, "no ranges", "0123456789")
    path = f"GET /v1/jobs/{job}/stdout"
    between.once(path, cut(4), answer(200, b"0123456789"))
    assert client.stdout(job) == b"0123456789"
    assert between.seen.count(path) == 2


@pytest.mark.parametrize(("old", "new"), [(b"true", b"fals"), (b"true", b"true and more"), (b"e", b"")])
def test_tampered_output_is_not_written(
    client: Client, between: Middleman, volunteer: Volunteer, tmp_path: Path, old: bytes, new: bytes
) -> None:
    """Other bytes than the accepted result has are an error, and no file is left, nor a part of one."""
    job = done(client, volunteer, f"tampered {new!r}", out="true")
    between.once(f"GET /v1/jobs/{job}/outputs/out", change(old, new), change(old, new), change(old, new))
    with pytest.raises(StrangeAnswer, match="announced"):
        client.download(job, "out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_empty_output_is_fetched(client: Client, volunteer: Volunteer, tmp_path: Path) -> None:
    """Nothing at all is something, too."""
    job = done(client, volunteer, "empty", "", out="")
    assert client.stdout(job) == b""
    client.download(job, "out", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""


def test_output_called_like_a_log_is_not_taken_for_it(client: Client, volunteer: Volunteer) -> None:
    """A declared output may have the name stderr; it is still another file than the captured errors."""
    job = client.submit(["confuse"], outputs=["stderr"])
    volunteer.do_next("", stderr="the log", outputs={"stderr": "the file"})
    assert client.output(job.id, "stderr") == b"the file"
    assert client.stderr(job.id) == b"the log"


def test_output_with_signs_in_its_name_is_fetched(client: Client, volunteer: Volunteer) -> None:
    """Names that need escaping in an address reach the server as they are."""
    name = "Ergebnisse/50 % & mehr?#ü.txt"
    job = done(client, volunteer, "signs", **{name: "yes"})
    assert client.output(job, name) == b"yes"


def test_events_tell_a_jobs_story_once(client: Client, between: Middleman, volunteer: Volunteer) -> None:
    """Each step is told once and in order, also where the stream breaks in between."""
    job = done(client, volunteer, "story")
    client.wait(job)
    whole = list(client.events(job))
    assert [event.kind for event in whole][:2] == ["submitted", "started"]
    assert "decided" in [event.kind for event in whole]
    between.once(f"GET /v1/jobs/{job}/events", cut(200))
    assert list(client.events(job)) == whole


def test_secured_server_wants_the_right_token(tmp_path: Path) -> None:
    """Without a token, with one of too small a scope, or of somebody else, nothing is shown; else all is."""
    with running_server(tmp_path / "server", "--allow-raw") as server:
        with Client(server.url) as nobody, pytest.raises(Refused) as caught:
            nobody.submit(["x"])
        assert caught.value.code == "no_token"
        with Client(server.url, server.access_token("ann", Scope.READ)) as reader, pytest.raises(Refused) as caught:
            reader.submit(["x"])
        assert caught.value.code == "wrong_scope"
        with Client(server.url, server.access_token("ann", Scope.SUBMIT, Scope.READ)) as ann:
            job = ann.submit(["x"])
            assert ann.job(job.id).cmd == "x"
        with Client(server.url, server.access_token("bob", Scope.READ)) as bob, pytest.raises(Refused) as caught:
            bob.job(job.id)
        assert caught.value.code == "not_found"


def test_package_is_light_until_it_is_used() -> None:
    """`import gnexec` alone brings neither the HTTP client nor the database; its names are there all the same."""
    code = "import gnexec, sys; assert not {'httpx2', 'sqlalchemy', 'msgspec'} & set(sys.modules); gnexec.Client"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert gnexec.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="nothing"):
        gnexec.nothing  # noqa: B018 -- looking is the point
