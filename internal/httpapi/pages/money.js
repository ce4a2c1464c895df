// digits are those of the minor unit of each ISO 4217 code that has not 2. Browsers
// format by Unicode's CLDR, which differs: RSD, ALL and IQD have 0 there.
//
// Source: SIX Group, the maintenance agency, amendment 180 of 1 January 2026.
const digits = {};
for (const [n, codes] of [
  [0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"],
  [3, "BHD IQD JOD KWD LYD OMR TND"],
  [4, "CLF UYW"],
]) for (const code of codes.split(" ")) digits[code] = n;

const formats = new Map(); // by currency: a format takes long to make

// money formats an amount in minor units of ISO 4217, such as cents.
export function money(amount, currency) {
  const n = digits[currency] ?? 2;
  if (!formats.has(currency)) {
    formats.set(currency, new Intl.NumberFormat(undefined, { style: "currency", currency, minimumFractionDigits: n, maximumFractionDigits: n }));
  }
  return formats.get(currency).format(amount / 10 ** n);
}
