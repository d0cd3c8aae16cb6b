"""By which names the service is addressed, and from which pages it takes what a browser posts."""

import socket

import pytest
from starlette.testclient import TestClient

from cfcam_gpu.service import access

from ..services import application, backend, picture


@pytest.fixture(scope="module")
def answering():
    return backend()


def status(answering, method, path, headers, **options):
    with TestClient(application(answering, **options)) as client:
        answer = client.request(method, path, content=picture(), headers=headers)
    if answer.status_code != 200:
        assert list(answer.json()) == ["error"]
    return answer.status_code


@pytest.mark.parametrize(
    ("host", "wanted"),
    [("localhost:8000", 200), ("LOCALHOST", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200)]
    + [(host, 403) for host in ("evil.example:8000", "127.0.0.1.evil.example", "[::1", "", "a/b", "192.0.2.1")],
)
def test_on_loopback_no_other_name_is_answered(answering, host, wanted):
    names = access.names_of("127.0.0.1")
    for method, path in (("GET", "/"), ("GET", "/health"), ("POST", "/explain?map=none")):
        assert status(answering, method, path, {"Host": host}, hosts=names) == wanted


@pytest.mark.parametrize(
    ("host", "wanted"),
    [("localhost:8000", 200), ("192.0.2.1:8000", 200), ("[2001:db8::1]:8000", 200), ("gpu.example", 200)]
    + [("a.lab.example:80", 200), (f"{socket.gethostname()}:8000", 200)]
    + [
        (host, 403) for host in ("evil.example", "lab.example", "xlab.example", "1.2.3.4.evil.example", "[gpu.example]")
    ],
)
def test_beyond_loopback_it_has_addresses_and_the_names_that_are_allowed(answering, host, wanted):
    names = access.names_of("0.0.0.0", ["GPU.example:8443", "*.lab.example"])
    assert status(answering, "GET", "/", {"Host": host}, hosts=names) == wanted


def test_names_on_loopback_are_those_of_loopback():
    loopback = {"localhost", "127.0.0.1", "[::1]"}
    for host in ("127.0.0.1", "localhost", "::1"):
        assert access.names_of(host) == loopback
    assert access.names_of("127.0.0.2") == loopback | {"127.0.0.2"}
    assert access.names_of("127.0.0.1", ["explain.example:8443"]) == loopback | {"explain.example"}
    assert access.ADDRESSES in access.names_of("0.0.0.0") & access.names_of("a.example")


@pytest.mark.parametrize("name", ["https://explain.example", "explain.example/", "*", "*.", "a b", "", "::1", "a:b"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="allowed-host: expected a host's name as browsers show it"):
        access.check(["fine.example", name])


@pytest.mark.parametrize(
    ("site", "wanted"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
)
def test_a_page_of_another_site_gets_nothing_explained(answering, site, wanted):
    headers = {"Sec-Fetch-Site": site}
    assert status(answering, "POST", "/explain?map=none", headers) == wanted
    assert status(answering, "GET", "/", headers) == 200  # a link to it


OWN, OTHER = (200, 200), (403, 403)


@pytest.mark.parametrize(
    ("host", "origin", "wanted"),
    [
        ("gpu:8000", "http://gpu:8000", OWN),
        ("gpu:8000", "HTTP://GPU:8000", OWN),
        ("gpu", "http://gpu", OWN),
        ("gpu:80", "http://gpu", OWN),
        ("[::1]:8000", "http://[::1]:8000", OWN),
        # A proxy that ends TLS hands on the name, and leaves out the port.
        ("explain.example", "https://explain.example", OWN),
        # Or it asks by the name that it has itself for the service.
        ("gpu:8000", "https://explain.example", (403, 200)),
        ("gpu:8000", "https://explain.example:443", (403, 200)),
        ("gpu:8000", "https://a.lab.example:8443", (403, 200)),
        ("gpu:8000", "https://a.lab.example", OTHER),
        ("gpu:8000", "http://explain.example:9999", OTHER),
        ("gpu:8000", "http://evil.example", OTHER),
        ("gpu:8000", "http://gpu:9999", OTHER),
        ("gpu:8000", "http://gpu", OTHER),
        ("gpu:8000", "http://gpu:8000.evil.example", OTHER),
        ("gpu:8000", "http://evil.example@gpu:8000", OTHER),
        ("gpu:8000", "file://gpu:8000", OTHER),
        ("gpu:8000", "gpu:8000", OTHER),
        ("gpu:8000", "null", OTHER),
        ("gpu:8000", "", OTHER),
    ],
)
def test_a_post_is_from_a_page_of_the_services_own_name(answering, host, origin, wanted):
    """Without names of a proxy, and with them."""
    headers = {"Host": host, "Origin": origin}
    for origins, code in zip(((), ("explain.example", "*.lab.example:8443")), wanted):
        assert status(answering, "POST", "/explain?map=none", headers, origins=origins) == code
    assert status(answering, "GET", "/health", headers) == 200
