// What the browser keeps between visits: the theme and the address. Never a credential.

const PREFIX = "llm-sidecar.";

export function recall(name) {
  try {
    return localStorage.getItem(PREFIX + name) ?? "";
  } catch {
    return "";
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // A browser that keeps nothing: the form is filled in again next time.
  }
}
