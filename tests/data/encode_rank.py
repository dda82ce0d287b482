"""Script that runs `xtts-extend encode` with one recording per part; SIGKILL ends rank 1 at its third, if asked."""

import os
import signal
import sys

from xtts_extend.cli import main
from xtts_extend.data import codes
from xtts_extend.model.codec import Codec

codes._ROWS_IN_PART = 1
encode, encoded = Codec.encode, []


def encode_or_die(codec, wav):
    encoded.append(1)
    if os.environ.get("KILLED") == os.environ["RANK"] and len(encoded) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(codec, wav)


Codec.encode = encode_or_die
sys.exit(main(sys.argv[1:]))
