// For administrators: tenants, keys, and the audit.

import { call, get, page, part } from "./api.js";
import { action, address, ask, el, moment, more, number, put, table, tell } from "./show.js";

const REFRESH_SECONDS = 10;
const SCOPES = ["submit", "read", "operate", "publish", "work", "admin"];

export function tenants(root, at) {
  const said = el("p", { role: "status" });
  const [list, made, keys] = [el("div"), el("div"), el("div")];
  root.append(el("div.title", {}, el("h1", {}, "Tenants and keys")), said, el("h2", {}, "Tenants"), list, el("h2", {}, "Keys"), newKey(made, said, () => refreshKeys()), made, keys);
  const shown = { cursor: at.query.get("cursor"), keys: at.query.get("keys") };
  const refreshTenants = async () => {
    const { items, cursor } = await page("tenants", { cursor: shown.cursor }, at.signal);
    showTenants(list, items, more("tenants", { ...shown, cursor }, "More tenants"), said, refreshTenants);
  };
  const refreshKeys = async () => {
    const { items, cursor } = await page("keys", { cursor: shown.keys }, at.signal);
    showKeys(keys, items, more("tenants", { ...shown, keys: cursor }, "Older keys", "keys"), said, refreshKeys);
  };
  at.every(REFRESH_SECONDS, refreshTenants, list, ["messages"]);
  at.every(REFRESH_SECONDS, refreshKeys, keys);
}

function showTenants(place, found, next, said, refresh) {
  put(place, table("Tenants", [
    ["Tenant", ({ tenant }) => tenant],
    ["Queued", ({ queued }) => number(queued), { number: true }],
    ["Running", ({ processing }) => number(processing), { number: true }],
    ["Created", ({ created_at }) => moment(created_at)],
    ["State", (one) => (one.deleted_at ? "is being deleted" : one.suspended_at ? "suspended" : "active")],
    ["Action", (one) => (one.deleted_at ? "" : action(one.suspended_at ? "Resume" : "Suspend", async () => {
      if (!one.suspended_at && !(await ask(`Suspend ${one.tenant}?`, "It may submit nothing, and nothing of it starts until you resume it.", "Suspend it"))) return null;
      await call("POST", `tenants/${part(one.tenant)}/${one.suspended_at ? "resume" : "suspend"}`);
      await refresh();
      return `${one.tenant} is ${one.suspended_at ? "active again" : "suspended"}.`;
    }, { out: said }))],
  ], found, "There are no tenants."), next);
}

function newKey(made, said, refresh) {
  const form = el("form.filter", { "aria-label": "Create a key" });
  const name = el("input", { id: "key-name", name: "name", maxLength: 100, autocomplete: "off" });
  const boxes = SCOPES.map((scope) => el("label.check", {}, el("input", { type: "checkbox", name: "scope", value: scope, checked: ["submit", "read"].includes(scope) }), scope));
  form.append(el("div", {}, el("label", { htmlFor: "key-name" }, "Name of a new key"), name), el("fieldset", {}, el("legend", {}, "Scopes"), boxes), el("div.buttons", {}, el("button.primary", {}, "Create the key")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const found = await call("POST", "keys", { body: { name: name.value, scopes: new FormData(form).getAll("scope") } });
      made.replaceChildren(el("p.made", {}, "The key, shown this once: ", el("code", {}, found.key)));
      form.reset();
      await refresh();
    } catch (error) {
      tell(said, error.message, true);
    }
  });
  return form;
}

function showKeys(place, found, next, said, refresh) {
  put(place, table("Keys", [
    ["Key", ({ key_id }) => el("code", {}, key_id)],
    ["Name", ({ name }) => name],
    ["Tenant", ({ tenant }) => tenant],
    ["Scopes", ({ scopes, agents }) => scopes.join(", ") + (agents ? ` (agents ${agents.join(", ")})` : ""), { wide: true }],
    ["Last used", ({ last_used_at }) => moment(last_used_at)],
    ["Ends", ({ expires_at, revoked_at }) => (revoked_at ? ["revoked ", moment(revoked_at)] : expires_at ? moment(expires_at) : "never")],
    ["Action", (key) => (key.revoked_at ? "" : action("Revoke", async () => {
      if (!(await ask(`Revoke ${key.name || key.key_id}?`, "Programs that use this key are refused from now on.", "Revoke it"))) return null;
      await call("DELETE", `keys/${part(key.key_id)}`);
      await refresh();
      return "The key is revoked.";
    }, { danger: true, out: said }))],
  ], found, "There are no keys."), next);
}

export function audit(root, at) {
  const list = el("div");
  const older = el("p");
  root.append(el("div.title", {}, el("h1", {}, "Audit"), el("span.quiet", {}, "who changed access, or stopped, repeated or deleted work")), list, older);
  const cursor = at.query.get("cursor") ?? "";
  at.every(cursor ? 3600 : REFRESH_SECONDS, async () => {
    const found = await get("audit", { limit: 100, cursor }, at.signal);
    put(list, table("Audit", [
      ["When", (act) => moment(act.at)],
      ["Who", (act) => act.principal, { wide: true }],
      ["What", (act) => act.action],
      ["Of", (act) => (act.action.startsWith("message.") ? el("a", { href: `#messages/${act.target}` }, act.target) : act.target), { wide: true }],
      ["Tenant", (act) => act.tenant],
      ["Details", (act) => (Object.keys(act.details).length ? el("code", {}, JSON.stringify(act.details)) : ""), { wide: true }],
    ], found.acts, "Nothing was changed yet."));
    put(older, found.next_cursor ? el("a.button", { href: `#${address("audit", { cursor: found.next_cursor })}` }, "Older acts") : "");
  }, list);
}
