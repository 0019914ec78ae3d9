"""The content of a sidecar: a caption as text or as XMP."""
import re

from chainer_caption.report.html import escape
from chainer_caption.report.rows import one_line

#: The suffix of sidecars in Adobe's XMP, the format of photo managers.
XMP = 'xmp'

# dc:description in the language "any", as ISO 16684-1 has it, within what exiv2, and so darktable and digiKam, write.
_PACKET = '''\
<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="chainer_caption">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:description>
    <rdf:Alt>
     <rdf:li xml:lang="x-default">{}</rdf:li>
    </rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
'''

# XML cannot hold these, not even as references (XML 1.0, production 2); a carriage return would be read as a line feed.
_NOT_IN_XML = re.compile('[\0-\x08\x0b-\x1f\ufffe\uffff]')


def sidecar(suffix: str, text: str) -> str:
    """The content of a caption's sidecar, which UTF-8 can encode: XMP for the suffix `'xmp'`, else one line of text.
    Characters that the format cannot hold are replaced or escaped."""
    if suffix == XMP:
        return _PACKET.format(_NOT_IN_XML.sub('\N{REPLACEMENT CHARACTER}', escape(text)))
    return one_line(text) + '\n'
