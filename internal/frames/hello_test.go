package frames

import (
	"encoding/json"
	"reflect"
	"testing"

	"waypost/internal/wire"
)

// FuzzHello: what is read here is what encoding/json reads.
func FuzzHello(f *testing.F) {
	whole, err := json.Marshal(wire.Hello{Version: 1, Protocol: "imap", User: "a@example.org", Home: "b1", Epoch: 7, Client: "[::1]:5", Session: "s"})
	if err != nil {
		f.Fatal(err)
	}
	if !plainHello(whole, new(opening)) {
		f.Errorf("%s is not plain", whole)
	}
	for _, text := range []string{string(whole), `{}`, `{"v":1}`, `{"v":01}`, `{"v":1,}`, `{"v":1}x`, `{"v":1,"v":2}`, `{"user":"\u0041"}`, `{"USER":"a"}`,
		`{"pop3":{"utf8":true}}`, `{"user":3}`, `{"v":"3"}`, `{"epoch":18446744073709551615}`, `{"user":null}`, ` {"v":1}`, `{"v":1,"points":true}`, `{"points":false}`, `{"points":true,"points":true}`, `{"points":truex}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want opening
		wantErr := json.Unmarshal(text, &want)
		got, err := decodeHello(text)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v, want %v", text, err, wantErr)
		}
		if err == nil && !reflect.DeepEqual(*got, want) {
			t.Errorf("%q: %+v, want %+v", text, *got, want)
		}
	})
}
