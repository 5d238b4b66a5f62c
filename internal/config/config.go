// Package config holds what the roles' settings have in common: zero values
// that stand for defaults. Each tier owns its own Config.
package config

// Default puts def where *v is zero.
func Default[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
