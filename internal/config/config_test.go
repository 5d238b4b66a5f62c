package config

import "testing"

func TestDefault(t *testing.T) {
	unset, set := 0, 7
	Default(&unset, 3)
	Default(&set, 3)
	if unset != 3 || set != 7 {
		t.Errorf("%d, %d", unset, set)
	}
}
