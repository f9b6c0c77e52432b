"""Sphinx's settings; `build.py` copies this file beside the pages it makes."""

project = "flexattn"
author = "flexattn"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "flexattn"
html_static_path = ["static"]
html_extra_path = ["extra"]
html_css_files = ["site.css", "playground.css"]
html_js_files = [("gallery.js", {"defer": "defer"}), ("playground.js", {"defer": "defer"})]
html_theme_options = {"navigation_with_keys": False}
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
myst_heading_anchors = 3
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
exclude_patterns = ["extra", "static"]
