package state

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// TestTable: a table is as a map is, whatever of it is as it was saved.
func TestTable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var tab table[int64]
		model := map[uint32]int64{}
		uid := rapid.Uint32Range(1, 30)
		rt.Repeat(map[string]func(*rapid.T){
			"set": func(rt *rapid.T) {
				at, v := uid.Draw(rt, "uid"), rapid.Int64().Draw(rt, "value")
				tab.set(at, v)
				model[at] = v
			},
			"drop": func(rt *rapid.T) {
				first := uid.Draw(rt, "first")
				last := first + rapid.Uint32Range(0, 20).Draw(rt, "more")
				tab.drop([]Range{{first, last}})
				maps.DeleteFunc(model, func(at uint32, _ int64) bool { return at >= first && at <= last })
			},
			"save": func(rt *rapid.T) {
				var ok bool
				if tab, ok = tableOf[int64](string(tab.save(nil))); !ok {
					rt.Fatal("not legible")
				}
			},
			"": func(rt *rapid.T) {
				got, last := map[uint32]int64{}, uint32(0)
				tab.each(func(at uint32, v int64) {
					if at <= last {
						rt.Fatalf("%d after %d", at, last)
					}
					got[at], last = v, at
				})
				if !maps.Equal(got, model) || tab.len() != len(model) {
					rt.Fatalf("%v, %d; want %v", got, tab.len(), model)
				}
				at := uid.Draw(rt, "asked")
				v, known := tab.get(at)
				if want, is := model[at]; known != is || v != want {
					rt.Fatalf("%d has %d %v, want %d %v", at, v, known, want, is)
				}
			},
		})
	})
	if _, ok := tableOf[int64]("short"); ok {
		t.Error("a part of a line")
	}
	if _, ok := tableOf[int64](string(make([]byte, 2*lineSize))); ok {
		t.Error("twice the same UID")
	}
}
