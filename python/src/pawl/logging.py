"""A logging handler whose lines say where the run is.

logging.getLogger().addHandler(pawl.logging.Handler(run))
logging.warning("the learning rate is high")   # [rank 0 epoch 3 step 1280] WARNING the learning rate is high
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Optional

from pawl._run import Run

FORMAT = "[rank %(rank)d epoch %(epoch)d step %(step)d] %(levelname)s %(message)s"


class Handler(logging.Handler):
    """Writes records with the rank, the epochs and the steps completed; around a tqdm bar, not through it.

    Parameters
    ----------
    run
        Of `pawl.attach`.
    stream
        Where to; default: ``sys.stderr``, as it is when the record comes. What `pawl run` and pawld keep (``pawl
        logs``) is both streams.
    format
        As of ``logging.Formatter``, with ``%(rank)d``, ``%(epoch)d`` and ``%(step)d``.
    """

    def __init__(self, run: Run, stream: Optional[Any] = None, format: str = FORMAT) -> None:
        super().__init__()
        self._run = run
        self._stream = stream
        self.setFormatter(logging.Formatter(format))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            record.rank, record.epoch, record.step = self._run.rank, self._run.epoch, self._run.steps
            line = self.format(record)
            stream = self._stream or sys.stderr
            # Whoever shows a bar has imported it.
            tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
            if tqdm is not None and getattr(tqdm, "_instances", None):
                tqdm.write(line, file=stream)
            else:
                stream.write(line + "\n")
                stream.flush()
        except Exception:
            self.handleError(record)
