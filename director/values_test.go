package director

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestValidateForwards(t *testing.T) {
	many := func(n int) []string { return slices.Repeat([]string{"bob@far.test"}, n) }
	for name, c := range map[string]struct {
		account Account
		bad     string
	}{
		"none":           {Account{}, ""},
		"one":            {Account{Forward: []string{"bob@far.test"}}, ""},
		"only":           {Account{Forward: []string{"bob@far.test"}, ForwardOnly: true}, ""},
		"subaddress":     {Account{Forward: []string{"bob+Work@far.test"}}, ""},
		"not our kind":   {Account{Forward: []string{"Bob/x=y+z'@Far.TEST", "bücher@bücher.test"}}, ""},
		"as many as may": {Account{Forward: many(MaxForwards)}, ""},
		"too many":       {Account{Forward: many(MaxForwards + 1)}, "use an alias"},
		"only to nobody": {Account{ForwardOnly: true}, "to nobody"},
		"empty":          {Account{Forward: []string{""}}, "local@domain"},
		"no local part":  {Account{Forward: []string{"@far.test"}}, "local@domain"},
		"no domain":      {Account{Forward: []string{"bob@"}}, "domain"},
		"no at":          {Account{Forward: []string{"bob"}}, "local@domain"},
		"bad domain":     {Account{Forward: []string{"bob@far_.test"}}, "domain"},
		"space":          {Account{Forward: []string{"bob @far.test"}}, "local@domain"},
		"two in one":     {Account{Forward: []string{"bob@far.test,eve@far.test"}}, "local@domain"},
		"with a name":    {Account{Forward: []string{"Bob <bob@far.test>"}}, "local@domain"},
		"line end":       {Account{Forward: []string{"bob\r\n@far.test"}}, "local@domain"},
		"not UTF-8":      {Account{Forward: []string{"b\xffb@far.test"}}, "local@domain"},
		"too long":       {Account{Forward: []string{strings.Repeat("b", 250) + "@far.test"}}, "local@domain"},
		"the second":     {Account{Forward: []string{"bob@far.test", "eve"}}, `"eve"`},
	} {
		checkAccount(t, name, c.account, c.bad)
	}
}

func TestValidateReply(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 8, n, 0, 0, 0, 0, time.UTC) }
	for name, c := range map[string]struct {
		reply AutoReply
		bad   string
	}{
		"vacation":         {AutoReply{Kind: ReplyVacation, Text: "gone"}, ""},
		"all of it":        {AutoReply{Kind: ReplyVacation, Subject: "Größe", Text: "a\r\nb", From: day(1), Until: day(2), Days: 365}, ""},
		"always":           {AutoReply{Kind: ReplyAlways, Text: "gone", Until: day(2)}, ""},
		"echo":             {AutoReply{Kind: ReplyEcho}, ""},
		"no kind":          {AutoReply{Text: "gone"}, "kind"},
		"another kind":     {AutoReply{Kind: "holiday", Text: "gone"}, "holiday"},
		"no text":          {AutoReply{Kind: ReplyVacation, Text: " \n"}, "without a text"},
		"text too long":    {AutoReply{Kind: ReplyVacation, Text: strings.Repeat("x", MaxReplyText+1)}, "longer"},
		"subject too long": {AutoReply{Kind: ReplyEcho, Subject: strings.Repeat("x", 501)}, "longer"},
		"ends before":      {AutoReply{Kind: ReplyEcho, From: day(2), Until: day(1)}, "2026-08-02"},
		"ends as it began": {AutoReply{Kind: ReplyEcho, From: day(2), Until: day(2)}, "2026-08-02"},
		"days below 0":     {AutoReply{Kind: ReplyVacation, Text: "gone", Days: -1}, "days"},
		"too many days":    {AutoReply{Kind: ReplyVacation, Text: "gone", Days: 366}, "days"},
		"zero byte":        {AutoReply{Kind: ReplyVacation, Text: "a\x00b"}, "no text"},
		"not UTF-8":        {AutoReply{Kind: ReplyVacation, Text: "a\xff"}, "no text"},
		"subject of lines": {AutoReply{Kind: ReplyEcho, Subject: "a\r\nBcc: b"}, "one line"},
	} {
		checkAccount(t, name, Account{Reply: &c.reply}, c.bad)
	}
}

func checkAccount(t *testing.T, name string, a Account, bad string) {
	t.Helper()
	err := a.Validate()
	if (err == nil) != (bad == "") || err != nil && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), bad)) {
		t.Errorf("%s: %v", name, err)
	}
}

// What an account is made of survives its encoding, and an account without
// forwards and reply is as small as ever.
func TestAccountEncoding(t *testing.T) {
	at := time.Date(2026, 8, 1, 7, 30, 0, 0, time.UTC)
	for _, a := range []Account{
		{Version: 1, Created: at},
		{Version: 1, Forward: []string{"bob@far.test"}, ForwardOnly: true, Created: at,
			Reply: &AutoReply{Kind: ReplyVacation, Subject: "s", Text: "t\n", From: at, Until: at.Add(time.Hour), Days: 3}},
	} {
		if got, err := DecodeAccount(encode(a)); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%+v is read as %+v, %v", a, got, err)
		}
	}
	var fields map[string]any
	if err := json.Unmarshal(encode(Account{Version: 1, Created: at}), &fields); err != nil || len(fields) != 2 {
		t.Errorf("an empty account has %v, %v", fields, err)
	}
}
