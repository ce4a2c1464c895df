package sandboxtest

import "fmt"

// Numbers returns a derived table, without its alias, whose column seq has the numbers
// from 1 to n, at most 100,000. It works on MySQL and MariaDB: sequence tables exist
// only on MariaDB, and recursive queries have different limits.
func Numbers(n int) string {
	const digit = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4" +
		" UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
	from, value := digit+" d1", "d1.d"
	for place := 10; place < n; place *= 10 {
		from += fmt.Sprintf(", %s d%d", digit, place)
		value += fmt.Sprintf(" + %d * d%d.d", place, place)
	}
	return fmt.Sprintf("(SELECT 1 + %s AS seq FROM %s WHERE %s < %d)", value, from, value, n)
}
