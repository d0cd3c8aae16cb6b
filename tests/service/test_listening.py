"""What else than the service listens is found."""

import subprocess
import sys

import pytest

from cfcam_gpu.service import listening

CODE = """
import socket, sys
family, address = (socket.AF_INET6, "::") if sys.argv[1] == "::" else (socket.AF_INET, sys.argv[1])
listening = socket.create_server((address, 0), family=family)
print(listening.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("address", "found"), [("127.0.0.1", False), ("0.0.0.0", True), ("::", True)])
def test_a_child_that_listens_beyond_loopback_ends_the_start(address, found):
    before = listening.beyond_loopback()
    command = [sys.executable, "-c", CODE, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        port = int(child.stdout.readline())
        listening.check("0.0.0.0", port, before)  # what was asked for
        listening.check("0.0.0.0", 1, listening.beyond_loopback())  # the user's own
        if found:
            with pytest.raises(
                RuntimeError, match=rf"but 127.0.0.1:1 to listen.*\({child.pid}\) listens at {address}:{port}"
            ):
                listening.check("127.0.0.1", 1, before)
        else:
            listening.check("127.0.0.1", 1, before)
        child.stdin.close()
