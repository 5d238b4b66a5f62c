package index

import (
	"strings"

	"waypost/backend/mime"
)

// hasAttachment is the rule of the package comment.
func hasAttachment(p *mime.Part) bool {
	if !p.Multipart() {
		return isAttachment(p, nil)
	}
	switch p.Subtype {
	case "encrypted", "report":
		return false
	}
	for _, c := range p.Children {
		if c.Multipart() && hasAttachment(c) || !c.Multipart() && isAttachment(c, p) {
			return true
		}
	}
	return false
}

// isAttachment looks at a leaf; parent is nil for the whole message.
func isAttachment(p, parent *mime.Part) bool {
	saved := p.Disposition != nil && p.Disposition.Value == "attachment"
	inline := p.Disposition != nil && p.Disposition.Value == "inline"
	switch {
	case p.Type == "application" && cryptographic(p.Subtype):
		return false
	case saved:
		return true
	case p.Message != nil:
		return parent != nil && parent.Subtype != "digest"
	case parent != nil && parent.Subtype == "related" && p.ID != "":
		return false
	case p.Type == "text" && inline:
		return false
	}
	return named(p.Params, "name") || p.Disposition != nil && named(p.Disposition.Params, "filename")
}

// cryptographic reports the parts of signed and encrypted mail that no reader
// wants to save (RFC 8551, Section 3.2.1; RFC 3156).
func cryptographic(subtype string) bool {
	switch subtype {
	case "pgp-signature", "pgp-encrypted", "pgp-keys", "pkcs7-signature", "x-pkcs7-signature",
		"pkcs7-mime", "x-pkcs7-mime":
		return true
	}
	return false
}

// named reports a parameter, also one in the pieces of RFC 2231.
func named(params map[string]string, name string) bool {
	for k, v := range params {
		if rest, ok := strings.CutPrefix(k, name); ok && v != "" && (rest == "" || rest[0] == '*') {
			return true
		}
	}
	return false
}
