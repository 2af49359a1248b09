"""A scorer without a model, for tests of everything around it; run as a script it is a whole service."""

import contextlib
import socket
import sys
import threading
import time

import numpy as np
import uvicorn

from lifecycle.deployment import service
from lifecycle.deployment.scorer import Scorer


@contextlib.contextmanager
def served(app):
    """An application served by a thread of this process; yields the port."""
    server = uvicorn.Server(service.server_settings(app))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


class AmountFeatures:
    """One feature, the amount; a payment at terminal 999 takes half a second."""

    def transform(self, records):
        if any(record["terminal_id"] == 999 for record in records):
            time.sleep(0.5)
        return np.array([[record["amount"]] for record in records], dtype="float32")


class AmountModel:
    """The score is amount / 1000, at most 1."""

    def predict(self, matrix):
        return np.minimum(matrix[:, 0].astype("float64") / 1000.0, 1.0)


class Forgetful(Scorer):
    """In the place of an endpoint: without a journal."""

    def close(self):
        pass


def scorer() -> Scorer:
    return Forgetful(AmountFeatures(), AmountModel(), 0.5)


def payment(transaction_id: int = 1, **changes) -> dict:
    base = {
        "transaction_id": transaction_id,
        "event_time": "2025-11-03T10:00:00Z",
        "customer_id": 7,
        "terminal_id": 8,
        "amount": 250.0,
    }
    return base | changes


if __name__ == "__main__":
    opened = service.Endpoint.open
    service.Endpoint.open = classmethod(lambda cls, folder, *more: scorer() if folder == "unused" else opened(folder))
    sys.exit(service.main())
