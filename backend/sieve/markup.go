package sieve

import (
	"html"
	"strings"
)

// stripMarkup gives the text of HTML: tags, comments, scripts and styles left
// out, entities decoded, white space as it is. It is for searching, and takes
// anything.
func stripMarkup(s string) string {
	var b strings.Builder
	folded := lower(s)
	for at := 0; at < len(s); {
		i := strings.IndexByte(s[at:], '<')
		if i < 0 {
			b.WriteString(s[at:])
			break
		}
		b.WriteString(s[at : at+i])
		at += i
		end := skipTag(folded[at:])
		if end == 1 {
			b.WriteByte('<')
		} else if isBlockTag(folded[at:]) {
			b.WriteByte(' ')
		}
		at += end
	}
	return html.UnescapeString(b.String())
}

// skipTag gives how long the tag, comment or element without text is that s
// begins with; 1 if it is none.
func skipTag(s string) int {
	for _, skip := range []struct{ start, end string }{{"<!--", "-->"}, {"<script", "</script"}, {"<style", "</style"}} {
		if strings.HasPrefix(s, skip.start) {
			i := strings.Index(s, skip.end)
			if i < 0 {
				return len(s)
			}
			return i + len(skip.end) + tail(s[i+len(skip.end):], skip.start != "<!--")
		}
	}
	if len(s) < 2 || s[1] != '/' && s[1] != '!' && s[1] != '?' && (s[1] < 'a' || s[1] > 'z') {
		return 1
	}
	i := strings.IndexByte(s, '>')
	if i < 0 {
		return len(s)
	}
	return i + 1
}

// tail is what is left of a closing tag, up to its >.
func tail(s string, closing bool) int {
	if i := strings.IndexByte(s, '>'); closing && i >= 0 {
		return i + 1
	}
	return 0
}

// isBlockTag tells tags that part words from those that stand within them.
func isBlockTag(s string) bool {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "<"), "/")
	n := 0
	for n < len(s) && (s[n] >= 'a' && s[n] <= 'z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	switch s[:n] {
	case "p", "br", "div", "td", "th", "tr", "table", "li", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "title", "body", "option":
		return true
	}
	return false
}
