"""What a training says while it runs, to MLflow and to the terminal."""

from __future__ import annotations

import threading
import time
from typing import Any

from mipnet.commands.common import SECONDS_BETWEEN_LINES
from mipnet.config.flags import say
from mipnet.runs import Run


class RowPump(threading.Thread):
    """Carries logged rows from the workers' actor to MLflow and to the terminal."""

    def __init__(self, rows: Any, run: Run, tracker: Any, total_steps: int) -> None:
        super().__init__(name="rows", daemon=True)
        self.rows, self.run_of, self.tracker = rows, run, tracker
        self.total_steps, self.batch_size = total_steps, run.config.train.batch_size
        self._stop_asked = threading.Event()
        self._logged, self._last_line = -1, 0.0

    def replay(self, history: list[dict[str, float]], logged: int) -> None:
        """Send what an interrupted start had logged but MLflow did not get."""
        self._logged = logged
        for row in history:
            self._log(row)

    def _log(self, row: dict[str, float]) -> None:
        step = int(row["step"])
        values = {k: v for k, v in row.items() if k != "step"}
        if "loss" not in row:  # a validation, which comes when it is done
            self.tracker.metrics(values, step)
            others = [v for v in self.run_of.state.get("validations", []) if v["step"] != step]
            self.run_of.note(validations=[*others, row])
            say(f"step {step}/{self.total_steps}  validation AP {100 * row['validation_AP']:.1f}")
        elif step > self._logged:
            self._logged = step
            self.tracker.metrics(values, step)

    def run(self) -> None:
        import ray

        while True:
            stopping = self._stop_asked.wait(0.5)
            try:
                rows = ray.get(self.rows.take.remote(), timeout=30)
            except ray.exceptions.RayError:
                rows = []
            for row in rows:
                self._log(row)
            steps = [row for row in rows if "loss" in row]
            if steps:
                self._show(steps[-1])
            if stopping:
                return

    def _show(self, row: dict[str, float]) -> None:
        now = time.monotonic()
        left = self.total_steps - int(row["step"])
        if left and now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        minutes, seconds = divmod(int(left * self.batch_size / max(row["samples_per_second"], 1e-9)), 60)
        say(
            f"step {int(row['step'])}/{self.total_steps}  loss {row['loss']:.5f}  "
            f"{row['samples_per_second']:.0f} samples/s  waiting for data {row['waited_for_data']:.0%}  "
            f"{minutes}:{seconds:02d} left"
        )

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(60)
