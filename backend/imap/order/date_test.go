package order

import (
	"testing"
	"time"
)

func TestSent(t *testing.T) {
	for field, want := range map[string]string{
		"Thu, 29 Aug 2002 15:36:58 +0200":               "2002-08-29T15:36:58+02:00",
		"Thu, 29 Aug 2002 15:36:58 +-0500":              "2002-08-29T15:36:58Z",
		"Fri, 30 Aug 02 05:32:48 Eastern Daylight Time": "2002-08-30T05:32:48Z",
		"9 Aug 2002 15:36:58 -0730":                     "2002-08-09T15:36:58-07:30",
		"Thu, 29 Aug 2002 15:36:58 +0200 (CEST)":        "2002-08-29T15:36:58+02:00",
		"Thu, 29 Aug 2002 15:36:58 +0000 x":             "2002-08-29T15:36:58Z",
		"Sat, 30 Feb 2002 10:00:00 +0000":               "",
		"29 Aug 2002 15:36 +0200":                       "2002-08-29T15:36:00+02:00",
		"29 Aug 2002 15:99:58 +0200":                    "2002-08-29T00:00:00Z",
		"Thu, 18 Jul 0102 19:51:35 -0100":               "",
		"2002/09/14 Sat 13:06:03 GMT":                   "",
		"29 Aug 2002":                                   "2002-08-29T00:00:00Z",
		"yesterday":                                     "",
		"":                                              "",
		"a b c d:":                                      "",
	} {
		got := ""
		if at := Sent(field); !at.IsZero() {
			got = at.Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", field, got, want)
		}
	}
}
