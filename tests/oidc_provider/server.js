// A real OpenID Connect provider (oidc-provider, certified) for the tests, with its own forms of login and consent.
// Arguments: port, JSON file of people by login, redirect URI. What a person's "tamper" says is done to the ID token.
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";

import Provider from "oidc-provider";

const [, , port, file, redirect] = process.argv;
const issuer = `http://127.0.0.1:${port}`;
const people = () => JSON.parse(readFileSync(file, "utf8"));
const encoded = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");

const TAMPER = {
  payload: (head, body, mark) => [head, encoded({ ...body, sub: "somebody-else" }), mark],
  none: (_, body) => [encoded({ alg: "none" }), encoded(body), ""],
  hmac: (_, body) => {
    const signed = `${encoded({ alg: "HS256" })}.${encoded(body)}`;
    return [...signed.split("."), createHmac("sha256", "client-secret-of-the-tests").update(signed).digest("base64url")];
  },
};

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "firstread",
      client_secret: "client-secret-of-the-tests",
      redirect_uris: [redirect],
      grant_types: ["authorization_code"],
      response_types: ["code"],
    },
  ],
  findAccount: (_, id) => (people()[id] ? { accountId: id, claims: () => ({ sub: id, ...people()[id] }) } : undefined),
  claims: { openid: ["sub"], profile: ["name", "preferred_username", "groups"] },
  pkce: { required: () => true },
  cookies: { keys: ["cookies of the tests"] },
});

provider.use(async (context, next) => {
  await next();
  const how = TAMPER[people()[context.oidc?.account?.accountId]?.tamper];
  if (context.oidc?.route !== "token" || !how || !context.body?.id_token) return;
  const [head, body, mark] = context.body.id_token.split(".");
  context.body.id_token = how(head, JSON.parse(Buffer.from(body, "base64url")), mark).join(".");
});

provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
