// Passkeys: forms with data-passkey-challenge get their proof from the authenticator instead of a password.

interface Described {
  id: string;
}

interface RequestJson {
  challenge: string;
  timeout: number;
  rpId: string;
  allowCredentials: Described[];
  userVerification: UserVerificationRequirement;
}

interface CreationJson {
  challenge: string;
  timeout: number;
  rp: PublicKeyCredentialRpEntity;
  user: { id: string; name: string; displayName: string };
  pubKeyCredParams: PublicKeyCredentialParameters[];
  excludeCredentials: Described[];
  authenticatorSelection: AuthenticatorSelectionCriteria;
}

export function markOf(form: HTMLFormElement): string {
  return form.querySelector<HTMLInputElement>("input[name=csrf_token]")?.value ?? "";
}

function bytes(text: string): Uint8Array<ArrayBuffer> {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

function text(buffer: ArrayBuffer | null): string | null {
  if (!buffer) return null;
  const plain = String.fromCharCode(...new Uint8Array(buffer));
  return btoa(plain).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

const described = (all: Described[] | undefined): PublicKeyCredentialDescriptor[] =>
  (all ?? []).map((one) => ({ id: bytes(one.id), type: "public-key" }));

async function ask(address: string, form: HTMLFormElement, purpose: string): Promise<unknown> {
  const fields = new FormData();
  fields.set("csrf_token", markOf(form));
  fields.set("purpose", purpose);
  const password = form.querySelector<HTMLInputElement>("input[type=password]")?.value;
  if (password) fields.set("password", password);
  const answer = await fetch(address, { method: "POST", body: fields, headers: { Accept: "application/json" } });
  if (answer.ok) return answer.json();
  if (answer.status === 403) throw new Error("The password is wrong, or the account is locked.");
  throw new Error(answer.status === 429 ? "Too many attempts. Wait a minute." : "The server did not answer as it should.");
}

async function assertion(form: HTMLFormElement): Promise<string> {
  const given = (await ask(form.dataset["passkeyChallenge"] ?? "", form, form.dataset["passkeyPurpose"] ?? "")) as RequestJson;
  const found = (await navigator.credentials.get({
    publicKey: {
      challenge: bytes(given.challenge),
      timeout: given.timeout,
      rpId: given.rpId,
      allowCredentials: described(given.allowCredentials),
      userVerification: given.userVerification,
    },
  })) as PublicKeyCredential;
  const response = found.response as AuthenticatorAssertionResponse;
  return JSON.stringify({
    id: found.id,
    rawId: text(found.rawId),
    type: found.type,
    response: {
      clientDataJSON: text(response.clientDataJSON),
      authenticatorData: text(response.authenticatorData),
      signature: text(response.signature),
      userHandle: text(response.userHandle),
    },
  });
}

async function registration(form: HTMLFormElement): Promise<string> {
  const given = (await ask(form.dataset["passkeyAdd"] ?? "", form, "")) as CreationJson;
  const made = (await navigator.credentials.create({
    publicKey: {
      challenge: bytes(given.challenge),
      timeout: given.timeout,
      rp: given.rp,
      user: { ...given.user, id: bytes(given.user.id) },
      pubKeyCredParams: given.pubKeyCredParams,
      excludeCredentials: described(given.excludeCredentials),
      authenticatorSelection: given.authenticatorSelection,
    },
  })) as PublicKeyCredential;
  const response = made.response as AuthenticatorAttestationResponse;
  return JSON.stringify({
    id: made.id,
    rawId: text(made.rawId),
    type: made.type,
    response: { clientDataJSON: text(response.clientDataJSON), attestationObject: text(response.attestationObject) },
  });
}

function say(form: HTMLFormElement, error: unknown): void {
  const place = form.querySelector<HTMLElement>("[data-passkey-error], [data-lock-error]");
  if (!place) return;
  const refused = error instanceof DOMException;
  place.textContent = refused ? "No passkey was used: it was cancelled, is not here, or took too long." : String((error as Error).message);
  place.hidden = false;
}

async function send(form: HTMLFormElement, make: (form: HTMLFormElement) => Promise<string>): Promise<void> {
  const field = form.querySelector<HTMLInputElement>("input[name=passkey]");
  if (!field) return;
  try {
    field.value = await make(form);
  } catch (error) {
    say(form, error);
    return;
  }
  // the passkey stands for the password, which may stay empty; every other field is still checked
  form.querySelectorAll<HTMLInputElement>("input[type=password]").forEach((one) => (one.required = false));
  form.dataset["passkeyReady"] = "1";
  form.requestSubmit();
}

export function startPasskeys(loaded: Element): void {
  const usable = "credentials" in navigator && window.isSecureContext;
  for (const button of loaded.querySelectorAll<HTMLButtonElement>("[data-passkey-use]")) {
    button.hidden = !usable;
    button.addEventListener("click", () => {
      const form = button.closest("form");
      if (form) void send(form, assertion);
    });
  }
  for (const form of loaded.querySelectorAll<HTMLFormElement>("form[data-passkey-add]")) {
    form.addEventListener("submit", (event) => {
      if (form.dataset["passkeyReady"]) return;
      event.preventDefault();
      void send(form, registration);
    });
  }
}
