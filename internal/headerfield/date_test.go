package headerfield

import (
	"net/mail"
	"testing"
	"time"
)

func TestDate(t *testing.T) {
	for in, want := range map[string]string{
		"Mon, 2 Jan 2006 15:04:05 -0700":          "2006-01-02T15:04:05-07:00",
		"Mon, 2 Jan 2006 15:04:05 -0700 (MST)":    "2006-01-02T15:04:05-07:00",
		"02 Jan 2006 15:04:05 -0000":              "2006-01-02T15:04:05Z",
		"Mon,  2 Jan 2006 15:04:05 GMT (UTC)":     "2006-01-02T15:04:05Z",
		"  Mon,2 Jan 2006 15:04 +0100":            "2006-01-02T15:04:00+01:00",
		"Mon (a (b)) , 2 (c)Jan 2006 15:04:05 +1": "2006-01-02T15:04:05Z",
		"Tuesday, 2 January 2006 15:04:05 +0000":  "2006-01-02T15:04:05Z",
		"mon, 2 jan 2006 15:04:05 +0000":          "2006-01-02T15:04:05Z",
		// obsolete zones and years
		"2 Jan 2006 15:04:05 PDT":         "2006-01-02T15:04:05-07:00",
		"6 Nov 2022 23:59:59 EST":         "2022-11-06T23:59:59-05:00",
		"6 Nov 2022 23:59:59 est":         "2022-11-06T23:59:59-05:00",
		"Sat, 1 Jan 00 00:00:00 Z":        "2000-01-01T00:00:00Z",
		"1 Apr 97 09:06 GMT":              "1997-04-01T09:06:00Z",
		"1 Apr 102 09:06 UT":              "2002-04-01T09:06:00Z",
		"2 Jan 2006 15:04:05 A":           "2006-01-02T15:04:05Z",
		"2 Jan 2006 15:04:05 MESZ":        "2006-01-02T15:04:05Z",
		"2 Jan 2006 15:04:05 GMT+0200":    "2006-01-02T15:04:05+02:00",
		"2 Jan 2006 15:04:05 -02:30":      "2006-01-02T15:04:05-02:30",
		"Mon, 2 Jan 2006 15:04:05":        "2006-01-02T15:04:05Z",
		"Mon, 2 Jan 2006 15:04:05 +9900":  "2006-01-02T15:04:05Z",
		"Mon, 2 Jan 2006 15:04:05.25 EST": "2006-01-02T15:04:05-05:00",
		// a leap second
		"Sun, 06 Nov 2022 23:59:60 +0530 (x)": "2022-11-07T00:00:00+05:30",
		// others
		"Mon Jan 2 15:04:05 2006":        "2006-01-02T15:04:05Z",
		"Mon Jan  2 15:04:05 EST 2006":   "2006-01-02T15:04:05-05:00",
		"Jan 2, 2006 15:04:05 +0100":     "2006-01-02T15:04:05+01:00",
		"Mon, 2-Jan-2006 15:04:05 +0100": "2006-01-02T15:04:05+01:00",
		"2006-01-02T15:04:05+01:00":      "2006-01-02T15:04:05+01:00",
		"2006-01-02T15:04:05Z":           "2006-01-02T15:04:05Z",
	} {
		got, ok := Date(in)
		if got.Format(time.RFC3339) != want || !ok {
			t.Errorf("%q: %s, %t, want %s", in, got.Format(time.RFC3339), ok, want)
		}
		if name, offset := got.Zone(); ok && name != "" && (name != "UTC" || offset != 0) {
			t.Errorf("%q: in zone %q", in, name)
		}
	}
	for _, in := range []string{
		"", " ", "yesterday", "Mon,", "(", "Mon, 99 Jan 2006 15:04:05 -0700", "Tue, 31 Feb 2020 10:00:00 +0000", "29 Feb 2019 10:00 Z",
		"0 Jan 2006 15:04:05 -0700", "2 Foo 2006 15:04:05 -0700", "2 Jan 6 15:04:05 -0700", "2 Jan 20006 15:04:05 -0700",
		"2 Jan 2006 24:04:05 -0700", "2 Jan 2006 15:60:05 -0700", "2 Jan 2006 15:04:61 -0700", "2 Jan 2006 15 -0700", "2 Jan 2006 1:2:3:4 Z",
		"2 Jan 0000 15:04:05 -0700", "2 Jan 2006", "Jan 2 15:04:05", "Jan 2 15:04:05 EST", "2 Jan 2006 :: Z", "31 Dec 9999 23:59:60 Z", "ä ö ü ß",
	} {
		if got, ok := Date(in); ok {
			t.Errorf("%q is %s", in, got)
		}
	}
}

// FuzzDate: whatever is read can be written and read again, with the zone in figures.
func FuzzDate(f *testing.F) {
	f.Add("Mon, 2 Jan 2006 15:04:05 -0700")
	f.Add("Mon Jan  2 15:04:05 EST 2006 (x)")
	f.Add("2-Jan-06 1:1 GMT+0100")
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := Date(s)
		if quick, is := usual(s); is {
			if slow, ok := odd(tokens(WithoutComments(s))); !ok || !slow.Equal(quick) || slow.Format("2 -0700") != quick.Format("2 -0700") {
				t.Fatalf("%q: %s, and the long way %s, %t", s, quick, slow, ok)
			}
		}
		if !ok {
			return
		}
		for _, layout := range []string{time.RFC1123Z, "2 Jan 2006 15:04:05 -07:00", "Mon Jan _2 15:04:05 -0700 2006", "Monday, 02-January-2006 15:04:05 (a) -0700"} {
			written := got.Format(layout)
			again, ok := Date(written)
			if !ok || !again.Equal(got) {
				t.Fatalf("%q: %s, and written as %q: %s, %t", s, got, written, again, ok)
			}
		}
	})
}

// TestLikePackageMail: of what is right, package mail and this one make the same.
func TestLikePackageMail(t *testing.T) {
	for day := range 800 {
		when := time.Date(1999, 12, 1+day, day%24, day%60, (day*7)%60, 0, time.FixedZone("", (day%27-13)*1800))
		for _, layout := range []string{
			time.RFC1123Z, "2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 06 15:04:05 -0700", "_2 Jan 2006 15:04:05 -0700 (MST)", "Mon, 02 Jan 2006 15:04 -0700",
		} {
			s := when.Format(layout)
			want, err := mail.ParseDate(s)
			if got, ok := Date(s); err != nil || !ok || !got.Equal(want) {
				t.Errorf("%q: %s, %t, want %s, %v", s, got, ok, want, err)
			}
		}
	}
}
