"""permessage-deflate as we offer and take it: no context between messages, and no bombs.

Without taking over contexts an idle connection holds no compressor, and a small window bounds a busy one. What a message may
inflate to is bounded twice: by the size of messages, and beyond FREE by RATIO times what was sent.

Source: RFC 7692 section 7; reliability table 2 row 17; shared decision 7 (idle WebSockets).
"""

from __future__ import annotations

from typing import Final

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.frames import Frame

RATIO: Final = 100  # inflated bytes for one that was sent
FREE: Final = 1 << 20  # bytes that any frame may inflate to

SERVER: Final = [
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=12,
        compress_settings={"memLevel": 5},
    )
]
CLIENT: Final = [
    ClientPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True, compress_settings={"memLevel": 5}
    )
]


class Bounded(Extension):
    """An extension whose frames inflate within reason; what does not is too big, and is not sent either."""

    def __init__(self, extension: Extension) -> None:
        self._extension = extension
        self.name = extension.name

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        bound = FREE + RATIO * len(frame.data)
        return self._extension.decode(frame, max_size=bound if max_size is None else min(max_size, bound))

    def encode(self, frame: Frame) -> Frame:
        encoded = self._extension.encode(frame)
        return frame if len(frame.data) > FREE + RATIO * len(encoded.data) else encoded
