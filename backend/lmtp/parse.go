package lmtp

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"waypost/director"
	"waypost/internal/wire"
)

// maxPath bounds a path in bytes. RFC 5321, Section 4.5.3.1.3 asks for 256 at
// least; the Return-Path line must stay under 998.
const maxPath = 900

// maxDeliveryID bounds a delivery id, which is stored with every message.
const maxDeliveryID = 128

// command is a command line: the verb in upper case and what follows it.
type command struct{ verb, args string }

// parseCommand splits a line without its CRLF.
func parseCommand(line string) command {
	verb, args, _ := strings.Cut(line, " ")
	return command{strings.ToUpper(verb), strings.TrimSpace(args)}
}

// cutPrefixFold takes a prefix such as "FROM:" off, whatever its case.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return strings.TrimLeft(s[len(prefix):], " "), true
}

// parsePath reads "<...>" at the start of s (RFC 5321, Section 4.1.2) and
// returns what is between, without a source route, and the rest. The null
// path is "".
func parsePath(s string) (path, rest string, ok bool) {
	end := pathEnd(s)
	if end < 0 {
		return "", "", false
	}
	path, rest = s[1:end], s[end+1:]
	if rest != "" && rest[0] != ' ' {
		return "", "", false
	}
	if strings.HasPrefix(path, "@") { // a source route is ignored (Appendix C)
		_, path, ok = strings.Cut(path, ":")
		if !ok || path == "" {
			return "", "", false
		}
	}
	return path, strings.TrimSpace(rest), len(path) <= maxPath && utf8.ValidString(path)
}

// pathEnd finds the '>' that belongs to the '<' at s[0], or -1. Within quotes
// everything but control characters may stand.
func pathEnd(s string) int {
	if s == "" || s[0] != '<' {
		return -1
	}
	quoted := false
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c < ' ' || c == 0x7f:
			return -1
		case quoted && c == '\\':
			i++
			if i == len(s) || s[i] < ' ' || s[i] == 0x7f {
				return -1
			}
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '>':
			return i
		case c == '<' || c == ' ':
			return -1
		}
	}
	return -1
}

// unquote makes of a quoted local part the same address without quotes, since
// a mailbox is named without. An address without quotes is returned as it is.
func unquote(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 2 || address[0] != '"' || address[at-1] != '"' {
		return address
	}
	var b strings.Builder
	for i := 1; i < at-1; i++ {
		if address[i] == '\\' {
			i++
		}
		b.WriteByte(address[i])
	}
	return b.String() + address[at:]
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// parseParams reads "KEY=value KEY ..." (RFC 5321, Section 4.1.1.11); keys in
// upper case, each at most once.
func parseParams(s string) (map[string]string, bool) {
	params := map[string]string{}
	for field := range strings.FieldsSeq(s) {
		key, value, _ := strings.Cut(field, "=")
		key = strings.ToUpper(key)
		if _, twice := params[key]; twice || key == "" {
			return nil, false
		}
		params[key] = value
	}
	return params, true
}

// mailParams are the parameters of MAIL FROM.
type mailParams struct {
	size     int64 // 0: not said
	utf8     bool
	delivery string
}

func parseMailParams(s string) (p mailParams, bad reply, ok bool) {
	params, ok := parseParams(s)
	if !ok {
		return p, syntax("malformed parameters"), false
	}
	for key, value := range params {
		switch key {
		case "SIZE":
			p.size, ok = parseSize(value)
		case "BODY": // RFC 6152; BINARYMIME is not offered
			ok = strings.EqualFold(value, "7BIT") || strings.EqualFold(value, "8BITMIME")
		case "SMTPUTF8":
			p.utf8, ok = true, value == ""
		case wire.ParamDelivery:
			p.delivery, ok = value, validDelivery(value)
		default:
			return p, reply{555, "5.5.4", "unknown parameter", resultMalformed}, false
		}
		if !ok {
			return p, syntax("bad value of " + key), false
		}
	}
	return p, bad, true
}

// parseSize reads up to 20 digits (RFC 1870, Section 3); what does not fit is
// as large as can be.
func parseSize(s string) (int64, bool) {
	if s == "" || len(s) > 20 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return math.MaxInt64, true
	}
	return n, true
}

// validDelivery takes what can stand in a parameter, a trace line and a log
// without quoting.
func validDelivery(id string) bool {
	if id == "" || len(id) > maxDeliveryID {
		return false
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c > '~' || strings.IndexByte(`=;()<>",\`, c) >= 0 {
			return false
		}
	}
	return true
}

// rcptParams are the parameters of RCPT TO. looked is whether home and epoch
// are both there.
type rcptParams struct {
	home     director.BackendID
	epoch    director.Epoch
	looked   bool
	accepted bool
	reject   string
}

func parseRcptParams(s string) (p rcptParams, bad reply, ok bool) {
	params, ok := parseParams(s)
	if !ok {
		return p, syntax("malformed parameters"), false
	}
	for key, value := range params {
		switch key {
		case wire.ParamHome:
			p.home = director.BackendID(value)
			ok = director.ValidBackendID(p.home) == nil
		case wire.ParamEpoch:
			epoch, err := strconv.ParseUint(value, 10, 64)
			p.epoch, ok = director.Epoch(epoch), err == nil && epoch > 0
		case wire.ParamReject:
			p.reject, ok = value, value == wire.RejectLater || value == wire.RejectNever
		case wire.ParamAccepted:
			p.accepted, ok = value == "1", value == "0" || value == "1"
		default:
			return p, reply{555, "5.5.4", "unknown parameter", resultMalformed}, false
		}
		if !ok {
			return p, syntax("bad value of " + key), false
		}
	}
	p.looked = p.home != "" && p.epoch != 0
	return p, bad, true
}

// parseBDAT reads "size [LAST]" (RFC 3030, Section 2).
func parseBDAT(args string) (size int64, last, ok bool) {
	number, rest, more := strings.Cut(args, " ")
	if more && !strings.EqualFold(rest, "LAST") {
		return 0, false, false
	}
	size, ok = parseSize(number)
	return size, more, ok && size < math.MaxInt64
}
