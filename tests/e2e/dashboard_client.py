"""A person at the dashboard without a browser: pages, links and forms over HTTP."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, Request, build_opener


@dataclass
class Form:
    """One form of a page with the values it holds."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    textareas: list[str] = field(default_factory=list)


class _Page(HTMLParser):
    """Collects forms, links and text; controls outside a form may name theirs by ``form=``."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.text: list[str] = []
        self._form: Form | None = None
        self._by_id: dict[str, Form] = {}
        self._textarea: tuple[Form, str] | None = None

    def handle_starttag(self, tag, attrs):
        given = {k: v or "" for k, v in attrs}
        if tag == "form":
            self._form = Form(given.get("action", ""), given.get("method", "get").lower())
            self.forms.append(self._form)
            self._by_id[given.get("id", "")] = self._form
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "img" and "src" in given:
            self.images.append(given["src"])
        elif tag in {"input", "textarea"} and given.get("name"):
            self._control(tag, given)

    def _control(self, tag, given):
        form = self._by_id.get(given["form"]) if "form" in given else self._form
        if form is None:
            return
        if tag == "textarea":
            form.textareas.append(given["name"])
            form.fields[given["name"]] = ""
            self._textarea = (form, given["name"])
        elif given.get("type") not in {"checkbox", "radio", "submit"}:
            form.fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag):
        if tag == "form":
            self._form = None
        elif tag == "textarea":
            self._textarea = None

    def handle_data(self, data):
        if self._textarea is not None:
            form, name = self._textarea
            form.fields[name] += data
        elif data.strip():
            self.text.append(data.strip())


@dataclass
class Page:
    """One answer of the dashboard."""

    status: int
    url: str
    body: bytes
    forms: list[Form]
    links: list[str]
    images: list[str]
    text: str

    def form(self, ending: str) -> Form:
        """The form whose action ends so."""
        return next(f for f in self.forms if f.action.split("?")[0].endswith(ending))

    def answered(self, ending: str) -> Form:
        """The form that signs, with a reason for each check it shows."""
        form = self.form(ending)
        form.fields |= {name: "Checked on the images" for name in form.fields if name.startswith("override-")}
        return form


class Person:
    """One logged-in person."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()))

    def get(self, path: str) -> Page:
        return self._open(Request(urljoin(self.address, path)))

    def submit(self, form: Form, **values: str) -> Page:
        data = urlencode({**form.fields, **values}).encode()
        url = urljoin(self.address, form.action)
        return self._open(Request(url, data=data, headers={"Referer": url, "Origin": self.address}))

    def log_in(self, login: str, password: str) -> Page:
        page = self.get("/")
        return self.submit(page.form("/login"), login=login, password=password)

    def _open(self, request: Request) -> Page:
        try:
            answer = self._opener.open(request, timeout=60)
        except HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            parsed = _Page()
            if "html" in answer.headers.get("Content-Type", ""):
                parsed.feed(body.decode())
            return Page(
                status=answer.status,
                url=answer.url,
                body=body,
                forms=parsed.forms,
                links=parsed.links,
                images=parsed.images,
                text=" ".join(parsed.text),
            )
