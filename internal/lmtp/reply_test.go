package lmtp

import (
	"bufio"
	"errors"
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	for in, want := range map[string]Reply{
		"250 2.1.5 ok\r\n":                       {250, "2.1.5", "ok"},
		"250\r\n":                                {250, "", ""},
		"250 \r\n":                               {250, "", ""},
		"250 ok\n":                               {250, "", "ok"},
		"550 2.1.5 other class\r\n":              {550, "", "2.1.5 other class"},
		"550 5.1\r\n":                            {550, "", "5.1"},
		"550 5.1.1\r\n":                          {550, "5.1.1", ""},
		"550 5.1.1234 x\r\n":                     {550, "", "5.1.1234 x"},
		"451-4.3.0 [STALE] a\r\n451 4.3.0 b\r\n": {451, "4.3.0", "[STALE] a\nb"},
		"250-x.test\r\n250-PIPELINING\r\n250 A\n": {250, "", "x.test\nPIPELINING\nA"},
	} {
		got, err := readReply(bufio.NewReaderSize(strings.NewReader(in), 16), 100)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"\r\n", "25\r\n", "2x0 a\r\n", "150 a\r\n", "650 a\r\n", "250_a\r\n", "250-a\r\n251 b\r\n", "250 " + strings.Repeat("a", 100) + "\r\n"} {
		if got, err := readReply(bufio.NewReaderSize(strings.NewReader(in), 16), 100); !errors.Is(err, ErrReply) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func FuzzReadReply(f *testing.F) {
	for _, s := range []string{"250 2.1.5 ok\r\n", "250-a\r\n250 b\r\n", "451 4.3.0 [BUSY] x\n", "354\r\n", "\r\n\r\n", "999 x\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		r, err := readReply(bufio.NewReaderSize(strings.NewReader(in), 16), 1000)
		if err != nil {
			return
		}
		if r.Code < 200 || r.Code > 599 || len(r.Text) > 1000 || strings.ContainsAny(r.Enhanced, " \r\n") {
			t.Errorf("%q: %+v", in, r)
		}
		if strings.Contains(r.String(), "\n") {
			t.Errorf("%q is not one line", r.String())
		}
	})
}
