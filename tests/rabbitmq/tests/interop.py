# The beginning of the scripts of interop.rs: a connection, and the values that both sides know.
import datetime
import decimal
import struct
import sys

import pika
import pika.data

url, queue = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url.rstrip("/") + "/%2f"))
channel = connection.channel()


class Tagged:
    """A value and the tag that it is encoded with."""

    def __init__(self, tag, value):
        self.tag, self.value = tag, value


# The types of a fixed size, as RabbitMQ encodes them. pika writes three of these, and decodes some
# differently: `b` as unsigned, `B` as signed, `l` as unsigned, `f` and `d` without their fractions.
FORMATS = {
    b"b": ">b",
    b"B": ">B",
    b"s": ">h",
    b"u": ">H",
    b"i": ">I",
    b"l": ">q",
    b"f": ">f",
    b"d": ">d",
}
encode_value, decode_value = pika.data.encode_value, pika.data.decode_value


def encode_tagged(pieces, value):
    if not isinstance(value, Tagged):
        return encode_value(pieces, value)
    pieces.append(value.tag + struct.pack(FORMATS[value.tag], value.value))
    return len(pieces[-1])


def decode_tagged(encoded, offset):
    tag = encoded[offset : offset + 1]
    if tag not in FORMATS:
        return decode_value(encoded, offset)
    (value,) = struct.unpack_from(FORMATS[tag], encoded, offset + 1)
    return value, offset + 1 + struct.calcsize(FORMATS[tag])


pika.data.encode_value, pika.data.decode_value = encode_tagged, decode_tagged

VALUES = {
    "bool": True,
    "i8": Tagged(b"b", -128),
    "u8": Tagged(b"B", 255),
    "i16": Tagged(b"s", -32768),
    "u16": Tagged(b"u", 65535),
    "i32": -5,
    "u32": Tagged(b"i", (1 << 32) - 1),
    "i64": 1 << 40,
    "i64 min": Tagged(b"l", -(1 << 63)),
    "f32": Tagged(b"f", 1.5),
    "f64": Tagged(b"d", -2.25),
    "decimal": decimal.Decimal("314.15"),
    "timestamp": datetime.datetime(2023, 11, 14, 22, 13, 20),
    "string": "süß",
    "bytes": b"\x00\x01\xff",
    "array": [-1, "two", None, {"deep": "value"}],
    "table": {"deep": "value"},
    "void": None,
}
PROPERTIES = {
    "content_type": "a/b",
    "content_encoding": "gzip",
    "delivery_mode": 2,
    "priority": 3,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "60000",
    "message_id": "m",
    "timestamp": 1700000000,
    "type": "t",
    "user_id": "guest",
    "app_id": "ä",
    "cluster_id": "k",
}


def sample(size):
    return bytes((n * 2654435761 % (1 << 32)) >> 24 for n in range(size))


def get():
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    assert method is not None, "the queue is empty"
    return properties, body


def publish(body, properties):
    channel.basic_publish("", queue, body, properties, mandatory=True)


def assert_values(found):
    for name, value in VALUES.items():
        value = value.value if isinstance(value, Tagged) else value
        assert found[name] == value, (name, found[name], value)
    assert len(found) == len(VALUES), found
