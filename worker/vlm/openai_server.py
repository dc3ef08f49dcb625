"""A vision-language model behind an OpenAI-compatible server, such as vLLM or SGLang.

The package holds no weights: its manifest names the server. Pictures travel as PNG inside the request, so a
connection is encrypted, or stays on this machine. What may pass by waiting (no connection, no answer in time,
too many requests, a failing server) is a `PeerUnavailableError`; no error and no log line repeats what was
asked or answered, or the key.
"""

import base64
import io
import ipaddress
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.errors import (
    ConfigurationError,
    GenerationBudgetError,
    ModelError,
    ModelOutputError,
    ModelPackageError,
    PeerUnavailableError,
    RepetitionError,
)
from worker.vlm import answers, chat
from worker.vlm.backends import Answer, Conversation, Generation, VlmCard
from worker.vlm.generation import RepetitionWatch
from worker.vlm.package import ServerAddress, VlmManifest, verify_vlm_package
from worker.vlm.prompts import Style
from worker.vlm.templates import Message

log = structlog.get_logger()

REQUESTS = 8
"""Requests under way at once."""

TOP_LOGPROBS = 20
"""Next tokens whose probability is asked for; vLLM gives no more than this unless told to."""

WORD_TOKENS = 8
"""Budget of a yes or no: a tokenizer may split the word, or put a line break before it."""

_PASSING = frozenset({408, 425, 429})

T = TypeVar("T")
Q = TypeVar("Q")


class _Lenient(BaseModel):
    """Part of a response; what is not read here is let through."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _TopToken(_Lenient):
    token: str
    logprob: float = Field(allow_inf_nan=False)


class _TokenChoice(_Lenient):
    token: str
    top_logprobs: list[_TopToken] | None = None


class _Logprobs(_Lenient):
    content: list[_TokenChoice] | None = None


class _Said(_Lenient):
    content: str | None


class _Choice(_Lenient):
    message: _Said
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(_Lenient):
    completion_tokens: int | None = None


class _Completion(_Lenient):
    model: str | None = None
    system_fingerprint: str | None = None
    choices: list[_Choice]
    usage: _Usage | None = None


class ServedVlm:
    """A model that an OpenAI-compatible server runs; greedy, no state between calls."""

    def __init__(self, manifest: VlmManifest, *, key: str = "") -> None:
        """Prepare requests; the server is not asked anything yet.

        Args:
            manifest: the package's promise, with a server.
            key: sent as bearer token; ``""`` sends none.

        Raises:
            ModelPackageError: the manifest names no server.
            ConfigurationError: pictures would leave this machine unencrypted, or the address holds a password.
        """
        if manifest.server is None:
            raise ModelPackageError(f"{manifest.name}: the manifest names no server")
        self.manifest = manifest
        self._server = manifest.server
        check_address(self._server)
        self._control = chat.unknown_control_pattern()
        self._reported: set[str] = set()
        self._client = httpx2.Client(
            base_url=self._server.url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(self._server.timeout_s, connect=min(10.0, self._server.timeout_s)),
            # A proxy named in the environment has no business with patients' pictures.
            trust_env=False,
            verify=ssl.create_default_context(),
        )

    @classmethod
    def load(cls, folder: Path, *, style: Style | None = None) -> Self:
        """Open a package folder whose manifest names a server.

        Args:
            folder: holds the manifest and nothing else.
            style: wording of prompts; None takes the package's.

        Raises:
            ModelPackageError: the folder is not what its manifest says.
            ConfigurationError: the key is not in the environment, or the connection would not be encrypted.
        """
        manifest = verify_vlm_package(folder)
        if style:
            manifest = manifest.model_copy(update={"style": style})
        return cls(manifest, key=api_key(manifest.server.api_key_env if manifest.server else ""))

    @property
    def card(self) -> VlmCard:
        """The package's promise."""
        return self.manifest.card()

    @property
    def runtime(self) -> Mapping[str, str]:
        """What was asked and what the server says it runs, once it has answered; for the provenance record."""
        return {
            "backend": "openai",
            "server": self._server.url,
            "requested_model": self._server.model,
            "served_model": ", ".join(sorted(self._reported)),
            "yes_no_request": answers.ONE_WORD.strip(),
        }

    def generate(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], *, max_new_tokens: int
    ) -> Generation:
        """See `worker.vlm.backends.VisionLanguageModel.generate`.

        Raises:
            PeerUnavailableError: the server does not answer, or not now.
        """
        conversation = Conversation(tuple(messages), tuple(images))
        completion = self._complete(conversation, {"max_tokens": max_new_tokens})
        choice = completion.choices[0]
        text = chat.written(choice.message.content or "")
        if choice.finish_reason == "length":
            if _is_endless(text):
                raise RepetitionError("the model repeated itself without end")
            raise GenerationBudgetError(f"the model did not stop within {max_new_tokens} tokens")
        if choice.finish_reason != "stop" or choice.message.content is None:
            raise ModelOutputError("the server ended the answer for another reason than its end")
        tokens = completion.usage.completion_tokens if completion.usage else None
        return Generation(text, token_count=tokens or 0, stopped=True, prompt=_shown(conversation, self._control))

    def generate_batch(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int
    ) -> list[Generation | ModelError]:
        """See `worker.vlm.backends.VisionLanguageModel.generate_batch`; the server puts the requests together.

        Raises:
            PeerUnavailableError: the server does not answer, or not now.
        """

        def one(conversation: Conversation) -> Generation | ModelError:
            try:
                return self.generate(conversation.messages, conversation.images, max_new_tokens=max_new_tokens)
            except ModelError as exc:
                return exc

        return _concurrently(one, conversations)

    def answer_each(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], questions: Sequence[str]
    ) -> list[Answer]:
        """See `worker.vlm.backends.VisionLanguageModel.answer_each`.

        The choice comes from the log-probabilities of the server's most probable tokens. A server that gives
        none is taken at its word: the answer must be a yes or no, and its margin is 0.

        Raises:
            ModelOutputError: an answer is neither yes nor no.
            PeerUnavailableError: the server does not answer, or not now.
        """

        def one(question: str) -> Answer:
            asked = Conversation(chat.with_question(messages, question + answers.ONE_WORD), tuple(images))
            options = {"max_tokens": WORD_TOKENS, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
            choice = self._complete(asked, options).choices[0]
            among = answers.choice_among(_first_probabilities(choice.logprobs))
            return among or answers.first_word(chat.written(choice.message.content or ""))

        return _concurrently(one, questions)

    def _complete(self, conversation: Conversation, options: Mapping[str, Any]) -> _Completion:
        chat.check_places(conversation)
        body = {
            "model": self._server.model,
            "messages": _request_messages(conversation, self._control),
            "temperature": 0,
            **options,
        }
        try:
            response = self._client.post("chat/completions", json=body)
        except httpx2.TimeoutException as exc:
            raise self._unavailable("did not answer in time") from exc
        except httpx2.RequestError as exc:
            raise self._unavailable(f"cannot be reached: {type(exc).__name__}") from exc
        self._check_status(response)
        try:
            completion = _Completion.model_validate_json(response.content)
        except ValidationError:
            # the cause would quote the answer
            raise ModelOutputError("the server's answer is no chat completion") from None
        if not completion.choices:
            raise ModelOutputError("the server's answer has no choice")
        if named := " ".join(filter(None, (completion.model, completion.system_fingerprint))):
            self._reported.add(named)
        return completion

    def _check_status(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status == httpx2.codes.OK:
            return
        log.warning("model.request.refused", model=self.manifest.name, status=status)
        if status in _PASSING or status >= 500:
            raise self._unavailable(f"answered {status}")
        if status in {400, 413} and _is_about_context(response.text):
            raise GenerationBudgetError("the prompt does not fit the context of the server's model")
        raise ModelError(f"the model server refused the request with status {status}")

    def _unavailable(self, why: str) -> PeerUnavailableError:
        return PeerUnavailableError(f"the model server {httpx2.URL(self._server.url).host} {why}")


def check_address(server: ServerAddress) -> None:
    """Check that pictures of patients are encrypted, or stay on this machine, and that the address holds no secret.

    Raises:
        ConfigurationError: plain HTTP to another machine, and the manifest does not allow it; or a password, which
            would end up in every provenance record.
    """
    url = httpx2.URL(server.url)
    if url.userinfo:
        raise ConfigurationError("server.url holds a password; name the key's environment variable in api_key_env")
    if url.scheme == "https" or server.allow_plain_http or _is_loopback(url.host):
        return
    raise ConfigurationError(
        f"plain http to {url.host} would send pictures of patients unencrypted; use https, a server on this "
        "machine, or server.allow_plain_http on a network the site vouches for"
    )


def api_key(variable: str) -> str:
    """Return the key an environment variable holds; ``""`` when none is named.

    Raises:
        ConfigurationError: the variable is empty or not set.
    """
    if not variable:
        return ""
    if not (key := os.environ.get(variable, "").strip()):
        raise ConfigurationError(f"the model server's key is missing: {variable} is not set")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_about_context(body: str) -> bool:
    """Whether a refusal says that the prompt is too long: OpenAI's code, or vLLM's and SGLang's sentence."""
    said = body.lower()
    return any(sign in said for sign in ("context_length_exceeded", "context length", "longer than the model"))


def _request_messages(conversation: Conversation, control: Any) -> list[dict[str, Any]]:
    pictures = iter(conversation.images)
    messages: list[dict[str, Any]] = []
    for message in conversation.messages:
        parts = chat.content_parts(message, control)
        if message.role == "assistant":
            messages.append({"role": "assistant", "content": "".join(part for part in parts if part)})
            continue
        content = [
            {"type": "image_url", "image_url": {"url": png_url(next(pictures))}}
            if part is None
            else {"type": "text", "text": part}
            for part in parts
        ]
        messages.append({"role": "user", "content": content})
    return messages


def png_url(picture: NDArray[np.uint8]) -> str:
    """Return a picture ``(rows, columns, 3)`` as data URL, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _shown(conversation: Conversation, control: Any) -> str:
    """Return the conversation as it was sent; the server's template, which is not known here, goes around it."""
    turns = []
    for message in conversation.messages:
        parts = chat.content_parts(message, control)
        turns.append(f"{message.role}: {''.join('<image>' if part is None else part for part in parts)}")
    return "\n".join(turns)


def _is_endless(text: str) -> bool:
    """Whether an answer that was cut off went round in circles; its words stand for the tokens not known here."""
    numbers: dict[str, int] = {}
    watch = RepetitionWatch()
    return any(watch.repeats(numbers.setdefault(word, len(numbers))) for word in text.split())


def _first_probabilities(logprobs: _Logprobs | None) -> dict[str, float]:
    """Return token → log-probability where the answer's first word stands; empty when the server gives none."""
    places = (logprobs.content if logprobs else None) or []
    first = next((place for place in places if place.token.strip()), None)
    return {top.token: top.logprob for top in first.top_logprobs or ()} if first else {}


def _concurrently(ask: Callable[[Q], T], questions: Sequence[Q]) -> list[T]:
    with ThreadPoolExecutor(max_workers=REQUESTS) as pool:
        return list(pool.map(ask, questions))
