/**
 * Control characters, line and paragraph separators, and what is invisible by definition (Default_Ignorable_Code_Point,
 * and U+FFF9 to U+FFFB): marks and overrides of direction, zero-width spaces, tags, fillers. They move the cursor,
 * reorder a text or hide words in it. What Persian, Indic scripts and emoji are written with stays: the joiners U+200C
 * and U+200D, and variation selectors.
 */
const UNSAFE = /[[\p{Cc}\p{Zl}\p{Zp}\p{DI}\ufff9-\ufffb]--[\u200c\u200d\ufe00-\ufe0f\u{e0100}-\u{e01ef}]]/gv;

/** Text from outside without what could move the cursor, change colours, or show a text in another order. */
export function filterText(text: string): string {
  return text.replace(/\t/g, " ").replace(UNSAFE, "");
}
