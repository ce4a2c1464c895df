package order

import "fmt"

// KeysQuery is the look-up of n keys, for a test of how the server runs it.
func KeysQuery(n int) (query string, args []any) {
	keys := make([]byKey, n)
	for i := range keys {
		keys[i] = byKey{fmt.Sprint("customer", 1+i%100), fmt.Sprint("key", 1+i/100)}
	}
	return keysQuery(keys)
}
