# SPDX-License-Identifier: Apache-2.0
"""Tells the site's reference that the comment behind a field is what it says of itself."""

import griffe


class Comments(griffe.Extension):
  """Makes docstrings of comments."""

  def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: object) -> None:
    """Called for each attribute that is read."""
    del kwargs
    _, mark, comment = attr.source.rpartition('  # ')
    if mark and not attr.docstring and '\n' not in comment:
      attr.docstring = griffe.Docstring(comment[:1].upper() + comment[1:].rstrip('.') + '.', parent=attr)
