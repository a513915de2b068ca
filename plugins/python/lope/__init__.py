"""What a Python function that Lope calls can use: messages, outcomes, errors. Part of the handler `python`.

Messages, the log and settlement are the handler's own, in _lope; here is what is better said in Python.
"""
import atexit
import datetime
import enum
import importlib
import importlib.util
import inspect
import io
import json
import logging
import os
import subprocess
import sys
import threading
import traceback

import _lope
from _lope import Error, MessageStateError, group, stopping, worker_index

__path__ = []  # a package: lope.consume
kMaxLogText = 16 * 1024  # what the host keeps of a text
kSecondsForThreads = 5  # that they have to end in, when their worker does


class Outcome(enum.Enum):
    ACK = 1
    RETRY = 2
    REJECT = 3
    HOLD = 4


ACK, RETRY, REJECT, HOLD = Outcome


class Retry(Exception):
    """The message comes again, `after` seconds or a timedelta from now, or when the group's policy says."""

    def __init__(self, reason="", after=None):
        super().__init__(reason)
        self.after = after


class Reject(Exception):
    """The message can never be handled: it is a dead letter."""


class DecodeError(Reject, ValueError):
    """The body is not what its content type says."""


class InvalidConfiguration(Exception):
    """Raised while the module is imported: the group does not start until its configuration changes."""


class MessageResult:
    """What a function of the style `message_result` returns."""

    def __init__(self, success=True, result=None, nextMessage=None):
        self.success = success
        self.result = result
        self.nextMessage = nextMessage


def _milliseconds(time):
    seconds = time.total_seconds() if isinstance(time, datetime.timedelta) else float(time)
    return max(0, round(seconds * 1000))


def _unix_milliseconds(time):
    return _milliseconds(time.timestamp() if isinstance(time, datetime.datetime) else time)


class _lazy:
    """An attribute that is computed when it is first asked for."""

    def __init__(self, compute):
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, message, owner):
        if message is None:
            return self
        value = message.__dict__[self.name] = self.compute(message)
        return value


class Message(_lope.Message):
    """A message, valid until it is settled. Its attributes and methods are those of kombu's, and some more;
    those of pika's `method` and `properties` are among them."""

    MessageStateError = MessageStateError
    cluster_id = None
    channel = None

    body = _lazy(_lope.Message._body)
    headers = _lazy(_lope.Message._headers)

    @_lazy
    def properties(self):
        """A dict with the keys that kombu has; what the message does not carry is not there."""
        names = ("content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to",
                 "expiration", "message_id", "timestamp", "type", "user_id", "app_id")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.headers:
            found["application_headers"] = self.headers
        return found

    @_lazy
    def delivery_info(self):
        names = ("consumer_tag", "delivery_tag", "redelivered", "exchange", "routing_key", "queue")
        return {name: getattr(self, name) for name in names}

    @_lazy
    def payload(self):
        """The body decoded: an object if it is JSON, text if it is that, else what `body` is."""
        content_type, *parameters = (self.content_type or "").lower().split(";")
        content_type = content_type.strip()
        is_json = content_type == "application/json" or content_type.endswith("+json")
        if not is_json and not content_type.startswith("text/"):
            return self.body
        charset = next((value.strip(" \"'") for key, _, value in (each.partition("=") for each in parameters)
                        if key.strip() == "charset"), "utf-8")
        body = self.body
        try:
            if isinstance(body, bytes):
                body = body.decode(charset)
            return json.loads(body) if is_json else body
        except (ValueError, LookupError) as error:
            raise DecodeError(f"the body is no {content_type}: {error}") from error

    def decode(self):
        return self.payload

    def ack(self, multiple=False):
        """Done. Returns False when it was kept and Lope has taken it back meanwhile."""
        _check_single(multiple)
        return self._settle(ACK.value)

    def retry(self, after=None, reason=None):
        """It comes again, `after` seconds or a timedelta from now, or when the group's policy says."""
        if reason is not None:
            self._explain(str(reason))
        if after is not None:
            self._retry_after(_milliseconds(after))
        return self._settle(RETRY.value)

    def reject(self, reason=None, requeue=False):
        """It is a dead letter; with `requeue`, a retry."""
        if isinstance(reason, bool):  # as kombu has it
            reason, requeue = None, reason
        if requeue:
            return self.retry(reason=reason)
        if reason is not None:
            self._explain(str(reason))
        return self._settle(REJECT.value)

    def requeue(self):
        return self.retry()

    def ack_log_error(self, logger, errors, multiple=False):
        self.ack(multiple)

    def reject_log_error(self, logger, errors, requeue=False):
        self.reject(requeue=requeue)

    def publish(self, body=b"", routing_key="", exchange="", **properties):
        """Publishes for this message: sent when it is acked, and confirmed before that.

        `body`: bytes, text, or else made JSON. Properties: headers, content_type, content_encoding,
        correlation_id, reply_to, message_id, type, priority, persistent (True unless set), delay and expiration
        (seconds or a timedelta), due (a datetime or seconds since 1970), may_be_unroutable.
        """
        self._publish(False, *_publication(body, properties, routing_key=routing_key, exchange=exchange))

    def reply(self, body=b"", **properties):
        """The same, to reply_to with the correlation_id of this one."""
        self._publish(True, *_publication(body, properties))

    def __repr__(self):
        if self._is_gone():
            return "<lope.Message, settled>"
        return f"<lope.Message {self.message_id or self.delivery_tag} of queue {self.queue!r}>"


def _check_single(multiple):
    if multiple:
        raise Error("multiple=True: expected one message to be settled, since each has an outcome of its own. Keep "
                    "those that are settled later (return lope.HOLD) and settle each, or use the style batch")


def _publication(body, properties, **to):
    properties.update(to)
    if not isinstance(body, (bytes, bytearray, memoryview)):
        content_type = "text/plain"
        if not isinstance(body, str):
            body, content_type = json.dumps(body), "application/json"
        body = body.encode()
        properties.setdefault("content_type", content_type)
        properties.setdefault("content_encoding", "utf-8")
    for name in ("delay", "expiration"):
        if properties.get(name) is not None:
            properties[name] = _milliseconds(properties[name])
    if properties.get("due") is not None:
        properties["due"] = _unix_milliseconds(properties["due"])
    return bytes(body), properties


class _Channel:
    """What a callback written for pika does with its channel, for the message of the call."""

    __slots__ = ("_message",)
    is_open, is_closed = True, False

    def __init__(self, message):
        self._message = message

    def _of(self, delivery_tag):
        if delivery_tag not in (0, self._message.delivery_tag):
            raise Error(f"expected the delivery tag of this call's message, {self._message.delivery_tag}, "
                        f"found {delivery_tag}: a message that was kept is settled by the channel of its own call")
        return self._message

    def basic_ack(self, delivery_tag=0, multiple=False):
        _check_single(multiple)
        self._of(delivery_tag).ack()

    def basic_nack(self, delivery_tag=0, multiple=False, requeue=True):
        _check_single(multiple)
        self._of(delivery_tag).reject(requeue=requeue)

    def basic_reject(self, delivery_tag=0, requeue=True):
        self._of(delivery_tag).reject(requeue=requeue)

    def basic_publish(self, exchange, routing_key, body, properties=None, mandatory=False):
        names = ("headers", "content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type",
                 "priority")
        given = {name: getattr(properties, name, None) for name in names}
        given = {name: value for name, value in given.items() if value is not None}
        expiration = getattr(properties, "expiration", None)
        if expiration is not None:
            given["expiration"] = int(expiration) / 1000
        body = body.encode() if isinstance(body, str) else body
        self._message.publish(body, routing_key, exchange, may_be_unroutable=not mandatory,
                              persistent=getattr(properties, "delivery_mode", None) == 2, **given)


# ---- What becomes of a message


def _reason(error):
    return "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()[-1]


def _log_traceback(error):
    text = "".join(traceback.format_exception(error)).rstrip()
    _lope.log(logging.ERROR, text if len(text) < kMaxLogText // 2 else "…" + text[-kMaxLogText // 2:])


def _failed(messages, error):
    """The function has raised: the outcome of those of the messages that it has given none."""
    after = None
    if isinstance(error, Reject):
        outcome, reason = REJECT, str(error)
    elif isinstance(error, Retry):
        outcome, reason, after = RETRY, str(error), error.after
    else:
        outcome, reason = RETRY, _reason(error)
        _log_traceback(error)
    for message in messages:
        if message.acknowledged:
            continue
        if outcome is REJECT:
            message.reject(reason or None)
        else:
            message.retry(after, reason or None)


def _returned(message, result):
    """The outcome that the function's result stands for, unless it has said one itself."""
    if message.acknowledged:
        return
    if result is None or result is True:
        message.ack()
    elif result is False:
        message.retry(reason="the function returned False")
    elif isinstance(result, Outcome):
        message._settle(result.value)
    else:
        message.retry(reason="expected the function to return None, True, False, lope.ACK, lope.RETRY, lope.REJECT "
                             f"or lope.HOLD, found {type(result).__name__}")


class _Handler:
    """A function as one instance calls it: call(message) gives a result for _returned()."""

    flush = None
    batch = None

    def __init__(self, function):
        self.runner = None
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):
            import asyncio
            self.runner = asyncio.Runner()
            self.function = lambda *arguments: self.runner.run(function(*arguments))
        else:
            self.function = function
        self.call = self.function

    def close(self):
        """As asyncio.Runner.close(), but for the threads of the loop's executor: those are waited for at the end of
        all, and not for ever."""
        if self.runner:
            self.runner.run(self.end_tasks())
            self.runner.get_loop().close()

    async def end_tasks(self):
        import asyncio
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=kSecondsForThreads)
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_asyncgens(), kSecondsForThreads)


class _Callback(_Handler):
    """A function of a library that looks at no result: nothing but an Outcome is one."""

    warned = False  # in this worker

    def outcome(self, message, result):
        if isinstance(result, Outcome):
            return result
        if message.acknowledged:
            return None
        if result is not None and (inspect.isawaitable(result) or inspect.isgenerator(result)
                                   or inspect.isasyncgen(result)):
            raise TypeError(f"expected the callback to be done when it returns, found a {type(result).__name__}, "
                            "which nobody runs")
        if not _Callback.warned:
            _Callback.warned = True
            _lope.log(logging.WARNING, "the callback returned without an ack: taken as one; a callback that acks "
                                       "later has to keep the message: lope.HOLD")
        return None


class _Kombu(_Callback):
    def __init__(self, function):
        super().__init__(function)
        self.call = self.with_body

    def with_body(self, message):
        body = message.payload
        # What says nothing of itself is text to kombu.
        if isinstance(body, bytes) and not message.content_encoding:
            try:
                body = body.decode()
            except UnicodeDecodeError:
                pass
        return self.outcome(message, self.function(body, message))


class _Pika(_Callback):
    def __init__(self, function):
        super().__init__(function)
        self.call = self.with_channel

    def with_channel(self, message):
        return self.outcome(message, self.function(_Channel(message), message, message, message.body_bytes))


class _Batch(_Handler):
    def batch(self, messages):
        results = self.function(messages)
        if not isinstance(results, (list, tuple)):
            results = [results] * len(messages)
        if len(results) != len(messages):
            raise ValueError(f"expected {len(messages)} outcomes, one for each message, found {len(results)}")
        for message, result in zip(messages, results):
            _returned(message, result)


class _MessageResult(_Handler):
    """Keeps the messages for which the function returns None, until it is called with None."""

    def __init__(self, function, to):
        super().__init__(function)
        self.to = to
        self.kept = []
        self.call = self.keep_or_settle

    def keep_or_settle(self, message):
        result = self.function(message)
        if result is None and not message.acknowledged:
            self.kept.append(message)
            return HOLD
        if isinstance(result, MessageResult):
            self.settle([message], result)
            return None
        return result

    def flush(self):
        if not self.kept:
            return
        kept = self.kept
        try:
            result = self.function(None)
            if result is None:
                return
            self.kept = []
            if isinstance(result, MessageResult):
                self.settle(kept, result)
            for message in kept:
                _returned(message, result)
        except BaseException as error:
            self.kept = []
            _failed(kept, error)

    def settle(self, messages, result):
        outcome = result.success
        if not isinstance(outcome, Outcome):
            outcome = ACK if outcome else RETRY
        messages = [message for message in messages if not message.acknowledged]
        if outcome is ACK and messages and result.nextMessage is not None:
            self.publish(messages[-1], result.nextMessage)
        for message in messages:
            if outcome is ACK and result.result is not None and message.reply_to:
                message.reply(result.result)
            elif outcome is not ACK and result.result is not None:
                message._explain(str(result.result))
        # What is refused above is so before any of them has its outcome.
        for message in messages:
            message._settle(outcome.value)

    def publish(self, message, following):
        for each in following if isinstance(following, (list, tuple)) else [following]:
            if isinstance(each, dict) and "body" in each:
                message.publish(**{**self.to, **each})
            else:
                message.publish(each, **self.to)


# ---- Finding the function


def _place(error):
    """Where it was raised: "file:line", in the user's own code if any of it was there."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith("<") and frame.filename != importlib.__file__]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def _import(module, file):
    if bool(module) == bool(file):
        found = "both" if module else "neither"
        raise InvalidConfiguration(f"expected one of the options 'module' and 'file', found {found}")
    if module:
        return importlib.import_module(module)
    if not os.path.isfile(file):
        raise InvalidConfiguration(f"option 'file': expected a file, found none at '{file}'")
    folder, name = os.path.split(os.path.abspath(file))
    name = os.path.splitext(name)[0]
    if name in sys.modules:
        raise InvalidConfiguration(f"option 'file': expected a name that is no other module's, found '{name}'")
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise InvalidConfiguration(f"option 'file': expected a Python file, found '{file}'")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


def _find(module, file, name):
    """The function; called once in a process."""
    option = "module" if module else "file"
    try:
        found = _import(module, file)
    except (ImportError, SyntaxError) as error:
        reason = f"SyntaxError: {error.msg}" if isinstance(error, SyntaxError) else _reason(error)
        raise InvalidConfiguration(f"{_place(error) or f'option {option!r}'}: {reason}") from error
    except InvalidConfiguration:
        raise
    except BaseException as error:
        _log_traceback(error)
        raise Error(f"{_place(error) or f'option {option!r}'}: {_reason(error)}") from error
    where = getattr(found, "__file__", None) or module
    for part in name.split("."):
        if not hasattr(found, part):
            raise InvalidConfiguration(f"option 'function': expected '{name}' in '{where}', found no '{part}'")
        found = getattr(found, part)
    if not callable(found):
        raise InvalidConfiguration(
            f"option 'function': expected '{name}' in '{where}' to be a function, found {type(found).__name__}")
    return found


def _style_of(function):
    """By how many arguments it must be given."""
    styles = {1: "message", 2: "kombu", 4: "pika"}
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # built in, and says nothing
        return "message"
    positional = [each for each in parameters
                  if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.default is each.empty]
    if len(positional) not in styles:
        raise InvalidConfiguration(
            "option 'function': expected a function of 1 argument (message), 2 (body, message) or "
            f"4 (channel, method, properties, body), found {len(positional)}; the option 'style' overrules this")
    return styles[len(positional)]


def _handler(function, style, to):
    """For one instance."""
    styles = {"message": _Handler, "kombu": _Kombu, "pika": _Pika, "batch": _Batch}
    style = style or _style_of(function)
    if style == "message_result":
        return _MessageResult(function, to)
    if style not in styles:
        raise InvalidConfiguration(
            f"option 'style': expected {', '.join(styles)} or message_result, found '{style}'")
    return styles[style](function)


# ---- The log


class _Stream(io.TextIOBase):
    """In the place of sys.stdout and sys.stderr: each line is one of the log's."""

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self, descriptor, level):
        self.descriptor = descriptor
        self.level = level
        self.started = threading.local()

    @property
    def buffer(self):
        return (sys.__stdout__ if self.descriptor == 1 else sys.__stderr__).buffer

    def writable(self):
        return True

    def reconfigure(self, **options):
        pass

    def fileno(self):
        return self.descriptor

    def write(self, text):
        *lines, rest = (getattr(self.started, "line", "") + text).split("\n")
        for line in lines:
            _lope.log(self.level, line)
        self.started.line = rest
        return len(text)

    def flush(self):
        if rest := getattr(self.started, "line", ""):
            self.started.line = ""
            _lope.log(self.level, rest)


class _LogHandler(logging.Handler):
    def emit(self, record):
        try:
            if _lope.log_enabled(record.levelno):
                _lope.log(record.levelno, self.format(record))
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    def formatMessage(self, record):
        return record.message if record.name == "root" else f"{record.name}: {record.message}"


# ---- Beginning and end, called by the handler


def _begin(options_json, paths, aliases):
    global options
    options = json.loads(options_json).get("options", {})
    sys.stdout = _Stream(1, logging.INFO)
    sys.stderr = _Stream(2, logging.WARNING)
    handler = _LogHandler()
    handler.setFormatter(_Formatter())
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.DEBUG)  # what is to be seen is the daemon's to say, and may change
    logging.captureWarnings(True)
    # A program that is started must not find signals ignored: fork() sees to that, and vfork() does not.
    subprocess._USE_VFORK = subprocess._USE_POSIX_SPAWN = False
    sys.path[:0] = paths
    for alias in aliases:
        sys.modules[alias] = sys.modules["lope.consume"]


def _others():
    return [each for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]


def _join_threads():
    for function in reversed(threading._threading_atexits):  # those of concurrent.futures wait for work
        function()
    for thread in _others():
        thread.join()


def _end():
    """What Python does at its end, but that threads which do not end are left alone."""
    joining = threading.Thread(target=_join_threads, daemon=True)
    joining.start()
    joining.join(kSecondsForThreads)
    if joining.is_alive():
        names = ", ".join(each.name for each in _others())
        logging.warning("threads that have not ended in %d s are left alone: %s", kSecondsForThreads, names)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
