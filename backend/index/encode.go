package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// A record's payload is a Meta:
//
//	wire (the ready-made texts, mime.Wire): the lengths of its two, and they;
//	header text, its length in full; fields; then the rest: times, preview, parts
//
// A field is the place of its name in keptNames, shifted left by two, a form
// (fieldPlain, fieldRaw, fieldCut), and its text. A string is a length shifted
// left by two, a form (inline, repeated, word) and bytes, or the place of an earlier
// occurrence in wire, header text and rest, or a place in words. Decoded strings are
// parts of one: wire, header text and rest.
//
// formatVersion changes whenever this, keptNames, words, what Read makes of a
// message, or the layout of the file does; an index of another version is empty.
const formatVersion = 2

const (
	// fieldPlain: name as in keptNames, ": ", the text, CRLF.
	fieldPlain = iota
	// fieldRaw: the text is all of the field.
	fieldRaw
	// fieldCut: no text.
	fieldCut
)

const (
	stringInline = iota
	stringRepeated
	stringWord
)

// words are the strings that structures are made of.
var words = [...]string{
	"", "text", "plain", "html", "charset", "utf-8", "UTF-8", "us-ascii", "iso-8859-1", "7bit",
	"8bit", "quoted-printable", "base64", "multipart", "alternative", "mixed", "boundary",
	"format", "flowed", "attachment", "inline", "filename", "name", "related", "application",
	"octet-stream", "image", "png", "jpeg", "gif", "pdf", "binary", "signed", "report", "micalg",
	"protocol", "pgp-signature", "application/pgp-signature", "pgp-sha256", "pgp-sha1", "delsp",
	"yes", "no", "type", "size", "creation-date", "modification-date", "message", "rfc822",
	"delivery-status", "report-type", "calendar", "method", "US-ASCII", "ISO-8859-1",
	"iso-8859-15", "windows-1252", "Windows-1252", "x-pkcs7-signature", "pkcs7-signature", "smime.p7s",
	"signature.asc", "multipart/alternative", "text/html", "zip", "msword", "x-unix-mode", "text/plain",
	"filename*", "name*", "octet", "audio", "video", "mpeg", "disposition-notification", "digest",
	"encrypted", "external-body", "gb2312", "GB2312", "big5", "koi8-r", "Content-Type",
}

var wordPlace = func() map[string]int {
	m := make(map[string]int, len(words))
	for i, w := range words {
		m[w] = i
	}
	return m
}()

const (
	// maxPayload bounds an encoded Meta, and with it what a decoded one is made of.
	maxPayload = 1 << 20
	// repeatWindow bounds where a repeated string is looked for, minRepeat how
	// short one may be.
	repeatWindow = 4 << 10
	minRepeat    = 4
)

// errTooLarge: a Meta that is not kept.
var errTooLarge = errors.New("too large for the index")

// What a bit of a part's first byte says is there.
const (
	hasID = 1 << iota
	hasDescription
	hasLocation
	hasDisposition
	hasLanguage
	hasChildren
	hasMessage
	hasEnvelope
)

// encoder builds a payload in pieces: the wire, the fields, and the rest. It is used for one Meta
// after the other, for the sake of its memory.
type encoder struct {
	wire   []byte
	header []byte // the header text
	fields []byte
	rest   []byte
	err    error
}

// encode appends m's payload to dst; errTooLarge.
func (e *encoder) encode(dst []byte, m *mailbox.Meta) ([]byte, error) {
	if m.Root == nil {
		return dst, errors.New("a Meta without a structure")
	}
	*e = encoder{e.wire[:0], e.header[:0], e.fields[:0], e.rest[:0], nil}
	envelope, structure := m.Root.Wire.Envelope, m.Root.Wire.Structure
	e.wire = append(append(e.wire, envelope...), structure...)
	for i := range m.Fields {
		e.field(&m.Fields[i])
	}
	e.time(m.Arrived)
	attachment := uint64(0)
	if m.Attachment {
		attachment = 1
	}
	e.uint(attachment)
	e.string(m.Preview)
	e.part(m.Root, 0)
	if e.err != nil {
		return dst, e.err
	}
	start := len(dst)
	dst = binary.AppendUvarint(dst, uint64(len(envelope)))
	dst = binary.AppendUvarint(dst, uint64(len(structure)))
	dst = append(dst, e.wire...)
	dst = binary.AppendUvarint(dst, uint64(len(e.header)))
	dst = binary.AppendUvarint(dst, uint64(len(m.Fields)))
	dst = append(dst, e.fields...)
	dst = append(dst, e.rest...)
	if len(dst)-start > maxPayload || len(e.wire)+len(e.header)+len(e.rest) > maxPayload {
		return dst[:start], errTooLarge
	}
	return dst, nil
}

func (e *encoder) field(f *mime.Field) {
	place, ok := keptPlace[f.Name]
	if !ok {
		e.err = errors.New("a field that no index keeps: " + f.Name)
		return
	}
	e.header = append(e.header, f.Raw...)
	form, text := uint64(fieldRaw), f.Raw
	if f.Cut {
		form = fieldCut
	} else if rest, ok := strings.CutPrefix(f.Raw, keptNames[place]+": "); ok {
		if value, ok := strings.CutSuffix(rest, "\r\n"); ok {
			form, text = fieldPlain, value
		}
	}
	e.fields = binary.AppendUvarint(e.fields, uint64(place)<<2|form)
	if form != fieldCut {
		e.fields = binary.AppendUvarint(e.fields, uint64(len(text)))
		e.fields = append(e.fields, text...)
	}
}

func (e *encoder) uint(n uint64) { e.rest = binary.AppendUvarint(e.rest, n) }

func (e *encoder) int(n int64) { e.rest = binary.AppendVarint(e.rest, n) }

func (e *encoder) string(s string) {
	n := uint64(len(s)) << 2
	if place, ok := wordPlace[s]; ok {
		e.uint(uint64(place)<<2 | stringWord)
		return
	}
	if len(s) >= minRepeat {
		if at := e.earlier(s); at >= 0 {
			e.uint(n | stringRepeated)
			e.uint(uint64(at))
			return
		}
	}
	e.uint(n + stringInline)
	e.rest = append(e.rest, s...)
}

// earlier looks for a string in what a decoder has before it.
func (e *encoder) earlier(s string) int {
	before := 0
	for _, piece := range [...][]byte{e.wire, e.header, e.rest} {
		if at := bytes.Index(piece[:min(len(piece), repeatWindow)], []byte(s)); at >= 0 {
			return before + at
		}
		before += len(piece)
	}
	return -1
}

// time keeps the instant and the offset of its zone, not the zone's name.
func (e *encoder) time(t time.Time) {
	_, offset := t.Zone()
	e.int(t.Unix())
	e.uint(uint64(t.Nanosecond()))
	e.int(int64(offset))
}

// part writes a part whose place is told from the end of what was before it.
func (e *encoder) part(p *mime.Part, before int64) {
	if len(e.rest) > maxPayload {
		e.err = errTooLarge
		return
	}
	at := len(e.rest)
	e.rest = append(e.rest, 0)
	var has byte
	optional := func(bit byte, s string) {
		if s != "" {
			has |= bit
			e.string(s)
		}
	}
	e.string(p.Type)
	e.string(p.Subtype)
	e.string(p.Encoding)
	e.params(p.Params)
	e.int(p.Header.Start - before)
	e.int(p.Header.Len())
	e.int(p.Body.Start - p.Header.End)
	e.int(p.Body.Len())
	e.int(p.Lines)
	optional(hasID, p.ID)
	optional(hasDescription, p.Description)
	optional(hasLocation, p.Location)
	if p.Disposition != nil {
		has |= hasDisposition
		e.string(p.Disposition.Value)
		e.params(p.Disposition.Params)
	}
	if len(p.Language) > 0 {
		has |= hasLanguage
		e.strings(p.Language)
	}
	if p.Envelope != nil {
		has |= hasEnvelope
		e.envelope(p.Envelope)
	}
	if len(p.Children) > 0 {
		has |= hasChildren
		e.uint(uint64(len(p.Children)))
		before = p.Body.Start
		for _, c := range p.Children {
			e.part(c, before)
			before = c.Body.End
		}
	}
	if p.Message != nil {
		has |= hasMessage
		e.part(p.Message, p.Body.Start)
	}
	e.rest[at] = has
}

func (e *encoder) strings(all []string) {
	e.uint(uint64(len(all)))
	for _, s := range all {
		e.string(s)
	}
}

func (e *encoder) params(params map[string]string) {
	e.uint(uint64(len(params)))
	if len(params) == 1 {
		for k, v := range params {
			e.string(k)
			e.string(v)
		}
		return
	}
	for _, k := range slices.Sorted(maps.Keys(params)) {
		e.string(k)
		e.string(params[k])
	}
}

func (e *encoder) envelope(v *imap.Envelope) {
	e.time(v.Date)
	e.string(v.Subject)
	for _, list := range [][]imap.Address{v.From, v.Sender, v.ReplyTo, v.To, v.Cc, v.Bcc} {
		e.uint(uint64(len(list)))
		for i := range list {
			e.string(list[i].Name)
			e.string(list[i].Mailbox)
			e.string(list[i].Host)
		}
	}
	e.strings(v.InReplyTo)
	e.string(v.MessageID)
}
