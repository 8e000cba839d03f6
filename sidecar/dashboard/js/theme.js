// Light, dark, or as the system has it.

import { setText } from "./dom.js";
import { recall, remember } from "./memory.js";

const THEMES = ["auto", "light", "dark"];

export function followTheme(button) {
  let theme = THEMES.includes(recall("theme")) ? recall("theme") : "auto";
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    setText(button, `Theme: ${theme}`);
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember("theme", theme);
    apply();
  });
  apply();
}
