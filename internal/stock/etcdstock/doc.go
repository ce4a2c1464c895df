// Package etcdstock keeps stock in etcd and changes it by compare-and-swap, without a
// lock. It knows SKUs, units and how many units each order took; prices, limits and
// orders are left to others. Its guarantees are about etcd alone: units are conserved,
// and each take counts once.
//
// # Keys
//
//	prefix/stock/<sku>          {"units", "available"}
//	prefix/taken/<sku>/<order>  the units that this order has taken
//	prefix/restocked/<sku>/<n>  the units that this restock has added
//
// Every change is one transaction on both,
//
//	If ModRevision(stock) = as read
//	Then Put(stock), Put(taken) or Delete(taken)
//	Else Get(stock), Get(taken)
//
// so that it fails if another change came first; the answer then has the values for
// the next try. An order's key never changes without the stock's: one compare covers
// both. The order's key shows whether its change was made, so that a change without an
// answer can be sent again and counts once.
//
// # Two stores, and the gap
//
// An order's row is in MySQL, and no transaction covers both stores. In this order,
//
//	Take(order)            units leave etcd
//	INSERT order; COMMIT   the row that sells them
//	  - or, refused:       GiveBack(order)
//
// a crash between the two leaves units that were taken and not sold. (The opposite
// order would oversell.) This gap is the orders in Taken that have no row in MySQL and
// that no process is working on. An auditor may give their units back after making sure
// that the row cannot appear any more: its COMMIT may still be on its way. The same
// applies to a cancelled order whose GiveBack was not reached.
package etcdstock
