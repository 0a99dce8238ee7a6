// VitePress's own theme, with tables that fit a phone.

import theme from "vitepress/theme";
// After the theme's own styles.
import "./style.css";

export default theme;
