package contract

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// formats are the checks of formats. int32 and int64 only choose generated types;
// the document has their bounds.
var formats = map[string]func(string) string{"date-time": dateTime, "iso-4217": currency, "int32": nil, "int64": nil}

// rfc3339 is stricter than package time, which accepts a decimal comma and hours of
// one digit, and than the RFC, which accepts lower case.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// dateTime accepts the times that a DATETIME of MySQL can store.
func dateTime(value string) string {
	const example = ", like 2030-01-31T12:00:00Z"
	t, err := time.Parse(time.RFC3339, strings.ToUpper(value))
	switch {
	case err != nil || !rfc3339.MatchString(strings.ToUpper(value)):
		return "must be an RFC 3339 time" + example
	case !rfc3339.MatchString(value):
		return "must have a capital T and Z" + example
	case t.UTC().Year() < 1000 || t.UTC().Year() > 9999:
		return "must be from the year 1000 to the year 9999, in UTC"
	}
	return ""
}

// currencies are the active codes of ISO 4217's list one with a minor unit, funds
// codes included. Prices count minor units, so codes without one (metals, XDR, XTS,
// XXX) are excluded.
//
// Source: SIX Group, the maintenance agency, amendment 180 of 1 January 2026. The
// tables of golang.org/x/text date from 2017.
var currencies = strings.Fields(`
	AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CLF
	CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF
	IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT
	MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD
	SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS
	VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG`)

// currency accepts the codes that a price may have.
func currency(value string) string {
	if _, found := slices.BinarySearch(currencies, value); !found {
		return "must be an active ISO 4217 code with a minor unit, like EUR"
	}
	return ""
}
