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
// the next try. (An order's key never changes without the stock's: one compare covers
// both.) Tries are bounded and counted, and the pauses between them grow. Every change
// names its order, and the order's key shows whether it was made: a change without an
// answer can be sent again, and counts once. (The caller must use one name for one
// order.)
//
// # Two stores, and the gap
//
// An order's row is in MySQL, and no transaction covers both stores. In this order,
//
//	Take(order)            units leave etcd
//	INSERT order; COMMIT   the row that sells them
//	  - or, refused:       GiveBack(order)
//
// a crash between the two leaves units that were taken and not sold: the shop never
// oversells, but some units stay unsold. The opposite order would oversell. The gap is
// the orders in Taken that have no row in MySQL and that no process is working on.
// Before an auditor gives their units back, which counts once, they must make sure that
// the row cannot appear any more: its COMMIT may still be on its way. The same applies
// to a cancelled order whose GiveBack was not reached.
//
// A strategy without this problem keeps stock and orders in one store.
package etcdstock
