"""Who we are: each way against a backend that lets nobody else in; what is wrong is named, no value is ever printed."""

import re

import pytest
from loopback_kfp import PROXY, Backend, serving
from loopback_kubernetes import kubeconfig

from latefuse import cli
from latefuse.cluster import kfp_auth, kfp_context, kfp_wait, submit
from latefuse.cluster.asked import ALLOW_TAG
from latefuse.cluster.kfp_auth import SubmitError

RECIPE = "tests/golden/recipe.yaml"
SECRET = "eyJhbGciOiJSUzI1NiJ9.c3VibWl0.4b1d"
SESSION = "authservice_session=MTc2NDAx-c2Vzc2lvbg"
WRONG = "eyJhbGciOiJSUzI1NiJ9.d3Jvbmc.77aa"


@pytest.fixture(autouse=True)
def _alone(nowhere, compiled_once, monkeypatch):
    monkeypatch.setenv(ALLOW_TAG, "1")


@pytest.fixture
def backend():
    made = Backend()
    made.token = SECRET
    return made


def submitted(host, *more):
    return cli.main(["submit", RECIPE, "--host", host, *more])


def everywhere(capsys, backend):
    """All that anybody could read: the terminal, and what was uploaded."""
    printed = capsys.readouterr()
    return printed.out + printed.err + "".join(backend.packages)


def test_a_token_file_is_read_anew_for_each_request(backend, tmp_path, monkeypatch):
    """The token is exchanged between two requests of one client, as a kubelet does."""
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    monkeypatch.setenv(kfp_auth.TOKEN_FILE, str(file))
    with serving(backend) as host:
        server = submit.connect(host)
        kfp_wait.wait(server, "r1", 60)
        backend.token = WRONG
        file.write_text(WRONG)
        backend.states = ["SUCCEEDED"]
        assert kfp_wait.wait(server, "r1", 60).state == "SUCCEEDED"
        file.unlink()
        with pytest.raises(SubmitError, match=rf"{kfp_auth.TOKEN_FILE}={file}: there is no such file"):
            kfp_wait.wait(server, "r1", 60)
    assert set(backend.said) == {f"Bearer {SECRET}", f"Bearer {WRONG}"}


@pytest.mark.parametrize("way", [kfp_auth.TOKEN_FILE, kfp_auth.TOKEN, kfp_auth.POD_TOKEN, "projected"])
def test_each_kind_of_token_lets_us_in_and_is_never_printed(backend, capsys, tmp_path, monkeypatch, way):
    file = tmp_path / "token"
    file.write_text(SECRET)
    if way == "projected":
        monkeypatch.setattr(kfp_auth, "PROJECTED", file)
    else:
        monkeypatch.setenv(way, SECRET if way == kfp_auth.TOKEN else str(file))
    with serving(backend) as host:
        assert submitted(host, "--wait") == 0
        backend.token = "another"
        assert submitted(host) == 1
    assert set(backend.said) == {f"Bearer {SECRET}"}
    text = everywhere(capsys, backend)
    assert SECRET not in text
    assert f"({401}), who came with " in text
    assert (way if way != "projected" else f"the pod's token in {file}") in text


@pytest.mark.parametrize("way", [kfp_auth.COOKIE, kfp_auth.COOKIE_FILE, "cookies.txt"])
def test_cookies_let_us_in_and_are_never_printed(capsys, tmp_path, monkeypatch, way):
    backend = Backend()
    backend.cookie = SESSION
    file = tmp_path / "cookies"
    name, _, value = SESSION.partition("=")
    if way == "cookies.txt":
        lines = ["# Netscape HTTP Cookie File"]
        for domain, secure, key in (
            ("127.0.0.1", "FALSE", name),
            ("127.0.0.1", "TRUE", "safe"),
            ("x.example", "FALSE", "o"),
        ):
            lines.append("\t".join([domain, "FALSE", "/", secure, "4102444800", key, value]))
        file.write_text("\n".join(lines) + "\n")
    else:
        file.write_text(f"Cookie: {SESSION}\n")
    monkeypatch.setenv(*((way, SESSION) if way == kfp_auth.COOKIE else (kfp_auth.COOKIE_FILE, str(file))))
    with serving(backend) as host:
        assert submitted(host) == 0
        backend.cookie = "another=one"
        assert submitted(host) == 1
    assert set(backend.said) == {SESSION}
    text = everywhere(capsys, backend)
    assert value not in text
    assert "copy the session cookie anew" in text


def test_two_ways_at_once_are_refused_before_anything_is_sent(backend, capsys, monkeypatch):
    monkeypatch.setenv(kfp_auth.TOKEN, SECRET)
    monkeypatch.setenv(kfp_auth.COOKIE, SESSION)
    with serving(backend) as host:
        assert submitted(host) == 1
        assert submitted("", "--context", "loop") == 1
    err = capsys.readouterr().err
    assert "KFP_TOKEN and KFP_COOKIE are given at once" in err
    assert "KFP_TOKEN and KFP_COOKIE and --context" in err
    assert backend.requests == []
    assert SECRET not in err
    assert SESSION not in err


@pytest.mark.parametrize("variable", [kfp_auth.TOKEN_FILE, kfp_auth.COOKIE_FILE, kfp_auth.POD_TOKEN])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"),
        (b"\n", "the file is empty"),
        (b"\xff\xfe\x00", "the file is no text"),
        (b"two words\nand more", "more than the token|expected one line"),
        ("folder", "can't be read"),
    ],
)
def test_a_bad_file_is_named_and_so_is_what_is_wrong_with_it(tmp_path, monkeypatch, variable, content, words):
    file = tmp_path / "who"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    monkeypatch.setenv(variable, str(file))
    with pytest.raises(SubmitError, match=rf"{variable}={file}: .*({words})"):
        submit.connect("http://127.0.0.1:9")


def test_a_broken_cookies_txt_is_not_repeated(tmp_path, monkeypatch):
    file = tmp_path / "cookies.txt"
    file.write_text(f"# Netscape HTTP Cookie File\n{SESSION}\n")
    monkeypatch.setenv(kfp_auth.COOKIE_FILE, str(file))
    with pytest.raises(SubmitError, match=r"no cookies\.txt that can be read") as caught:
        submit.connect("http://127.0.0.1:9")
    assert SESSION not in str(caught.value)
    file.write_text("# Netscape HTTP Cookie File\n" + "\t".join(["x.example", "FALSE", "/", "FALSE", "0", "a", "b"]))
    with pytest.raises(SubmitError, match=r"no cookie for 127\.0\.0\.1"):
        submit.connect("http://127.0.0.1:9")


def test_what_the_server_repeats_of_a_token_is_hidden(backend, capsys, monkeypatch):
    monkeypatch.setenv(kfp_auth.TOKEN, SECRET)
    backend.fail = {"/runs": [400]}
    backend_answer = backend.answer
    backend.answer = lambda *asked: tuple(
        {**one, "error_message": f"no {SECRET}"} if isinstance(one, dict) and "error_message" in one else one
        for one in backend_answer(*asked)
    )
    with serving(backend) as host:
        assert submitted(host) == 1
    err = capsys.readouterr().err
    assert "It says: no ***" in err
    assert SECRET not in err + repr(kfp_auth.choose("http://x"))


def test_a_redirect_gets_no_token(backend, monkeypatch):
    """It may lead to another host; urllib would send our headers along."""
    other = Backend()
    with serving(other) as elsewhere, serving(backend) as host:
        monkeypatch.setattr("loopback_kfp.LOGIN", elsewhere)
        monkeypatch.setenv(kfp_auth.TOKEN, SECRET)
        backend.health = (302, {})
        with pytest.raises(SubmitError, match=re.escape(elsewhere)):
            submit.connect(host)
    assert other.requests == []


def test_in_a_pod_the_service_is_found_by_its_name(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    asked = []
    monkeypatch.setattr(submit, "_health", lambda host, auth: asked.append(host) or {})
    assert submit.connect("", "cooks").host == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
    assert submit.connect("", "cooks", None, "kfp").host == asked[1] == "http://ml-pipeline.kfp.svc.cluster.local:8888"


@pytest.fixture
def context(tmp_path, monkeypatch):
    """Makes a kubeconfig for an address the one in use."""
    return lambda host: monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, host, token=SECRET)))


@pytest.mark.parametrize("named", [True, False])
def test_by_a_context_of_kubectl_through_the_kubernetes_api(backend, context, capsys, named):
    """The token is the kubeconfig's; all requests go to the proxy of the service."""
    with serving(backend) as host:
        context(host)
        assert submitted("", "--wait", *(["--context", "loop"] if named else [])) == 0
    assert set(backend.said) == {f"Bearer {SECRET}"}
    assert {one["raw"].partition("/apis/")[0].rstrip("/") for one in backend.requests} == {PROXY}
    text = everywhere(capsys, backend)
    assert "kubectl --context loop -n kubeflow port-forward" in text
    assert "run r1: SUCCEEDED" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "the context 'loop' of kubectl: its user needs get and create on services/proxy in namespace kubeflow"),
        (404, "no service ml-pipeline in namespace 'kubeflow'"),
        (503, "try later"),
    ],
)
def test_what_a_context_lacks_is_told(backend, context, capsys, status, words):
    backend.health = (status, {"message": "planned"})
    with serving(backend) as host:
        context(host)
        assert submitted("", "--context", "loop") == 1
    assert words in capsys.readouterr().err


def test_a_context_that_is_not_there_or_beside_a_host(context, capsys, monkeypatch):
    context("http://127.0.0.1:9")
    assert submitted("", "--context", "lop") == 1
    assert "kubectl has no context 'lop', but loop" in capsys.readouterr().err
    assert submitted("http://127.0.0.1:9", "--context", "loop") == 1
    assert "--host (KFP_HOST) and --context are given" in capsys.readouterr().err
    assert submitted("") == 1
    assert "can't be reached" in capsys.readouterr().err
    monkeypatch.setenv(kfp_auth.TOKEN, SECRET)
    assert submitted("") == 1
    assert "but not to whom" in capsys.readouterr().err
    assert not kfp_context.in_pod()
