"""The board as a static web site: Jinja2 pages, two kept libraries, one small style sheet and script."""
