import { expect, test } from "bun:test";
import { Presence } from "../../src/page/presence.ts";

test("users who come and go while the list is requested are right after it", () => {
  const presence = new Presence();
  presence.changed("old", true);
  presence.requested();
  presence.changed("bob", true); // In the list already, or after it.
  presence.changed("carol", false); // After the list.
  presence.listed(["carol", "dave"], 3);
  expect(presence.names).toEqual(["bob", "dave"]);
  expect(presence.more).toBe(3);
  expect(presence.has("old")).toBe(false);
  presence.changed("dave", false);
  presence.requested();
  presence.listed(["dave"], 0);
  expect(presence.names).toEqual(["dave"]);
});

test("names are in alphabetical order, whatever their case", () => {
  const presence = new Presence();
  presence.listed(["Zoe", "bob", "Bob", "anna", "SEAS"], 0);
  expect(presence.names).toEqual(["anna", "Bob", "bob", "SEAS", "Zoe"]);
});
