"""The corpus' Debian packages, and the bundles and shares held out of training.

The packages of a bundle are read together, since the English and the German edition of a text may be in two
packages. Files are recognised by their paths (``readers.py``). "a|b" is one package with different names in
different releases of Debian.
"""


def words(text: str) -> set[str]:
    """Split a text of words, separated by spaces, into a set."""
    return set(text.split())


_TOGETHER = {
    "libreoffice-help": "libreoffice-help-de libreoffice-help-en-us",
    "manpages": "manpages-de manpages-de-dev manpages manpages-dev coreutils util-linux systemd man-db",
    "dpkg": "dpkg dpkg-dev",
    "debian-reference": "debian-reference-de debian-reference-en",
    "developers-reference": "developers-reference developers-reference-de",
    "maint-guide": "maint-guide maint-guide-de",
    "debian-faq": "debian-faq debian-faq-de",
    "kate-data": "kate5-data|kate-data",
}
_SINGLE = """
apt debhelper devscripts po4a passwd installation-guide-amd64 debian-handbook gnome-user-docs aisleriot
libreoffice-l10n-de evolution-common gnucash-common gimp-data inkscape libgtk-3-common libgtk-4-common
git bash freeciv-data digikam-data krita-l10n kmymoney-common skrooge-common krusader dolphin
kmail okular wordpress-l10n phpmyadmin libc-l10n util-linux-locales lyx-common calibre gnupg-l10n
gcc-12-locales gramps pidgin-data claws-mail-i18n gnumeric-common darktable vlc-l10n subversion kile-doc
kleopatra korganizer konsole gedit-common aptitude-common gnome-control-center-data nautilus-data
konqueror kturtle kpat calligrasheets-data mediawiki
"""
_CAMPAIGNS = "did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs"

BUNDLES = {
    name: [tuple(package.split("|")) for package in packages.split()]
    for name, packages in (
        _TOGETHER
        | {name: name for name in _SINGLE.split()}
        | {f"wesnoth-{c}": f"wesnoth-1.16-{c}|wesnoth-1.18-{c}" for c in _CAMPAIGNS.split()}
    ).items()
}
"""The packages of every bundle; of a package's alternative names, the first one found is used."""

DESCRIPTIONS = "ddtp"
"""The bundle of Debian's package descriptions, which come with the package lists."""

CORE = words(
    """libreoffice-help libreoffice-l10n-de manpages gcc-12-locales devscripts debian-reference
    debhelper util-linux-locales dpkg claws-mail-i18n apt developers-reference libc-l10n gnupg-l10n
    po4a krusader gnumeric-common gnome-user-docs korganizer"""
)
"""Bundles with at least 400 pairs of five words or more per MB of download."""

HELD_OUT = {
    "test": words(
        """debian-faq gnucash-common nautilus-data kturtle kpat wesnoth-thot wesnoth-ttb aisleriot"""
    ),
    "valid": words("""maint-guide pidgin-data konsole subversion wesnoth-sotbe gedit-common"""),
}
"""Whole bundles that are never trained on. gimp-help is in none of the splits; other checks use it."""

HELD_OUT_DOCUMENTS = {"lohelp": 25, "man": 30, "ddtp": 25, "gnomehelp": 40}
"""For kinds of text from large collections: documents per 1000 that go to test, and to valid."""

HELD_OUT_COLLECTIONS = {"libreoffice-help", "manpages", DESCRIPTIONS, "gnome-user-docs"}

QUOTA = {
    "lohelp": 700,
    "man": 500,
    "ddtp": 700,
    "gnomehelp": 250,
    "kdedoc": 250,
    "book": 300,
    "ui": 500,
    "story": 300,
}
"""The most pairs of each kind of text in test and in valid."""

MIN_WORDS = 4
"""The fewest words of a held-out sentence on either side."""


def bundles(core: bool) -> dict[str, list[tuple[str, ...]]]:
    """Return the bundles of the corpus, or of its core; both include the held-out bundles."""
    wanted = CORE.union(*HELD_OUT.values()) if core else BUNDLES.keys()
    return {name: packages for name, packages in BUNDLES.items() if name in wanted}
