// The key or access token of this tab, where the service asks for one. The application of a user opens the page with
// ?token=...; the token leaves the address at once, so that it does not stay in the history.

const NAME = "treadle.token";

let token = read();
const given = new URLSearchParams(location.search).get("token");
if (given) {
  use(given);
  history.replaceState(null, "", `${location.pathname}${location.hash}`);
}

function read() {
  try {
    return sessionStorage.getItem(NAME);
  } catch { // forbidden
    return null;
  }
}

/** Use another key or token from now on. */
export function use(text) {
  token = text.trim();
  try {
    sessionStorage.setItem(NAME, token);
  } catch { /* it is forgotten on a reload */ }
}

/** The headers of a request. */
export const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

/** The first frame of a socket; null where none is needed. */
export const firstFrame = () => (token ? { type: "auth", token } : null);
