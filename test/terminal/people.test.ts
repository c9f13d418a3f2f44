import { expect, test } from "bun:test";
import { Completion } from "../../src/terminal/completion.ts";
import { People } from "../../src/terminal/people.ts";

function newPeople(online: string[], ...wrote: string[]): People {
  const people = new People();
  people.setOnline(online);
  for (const name of wrote) people.wrote(name, false);
  return people;
}

test("a typed name means the exact one, else the only one that is equal but for case, else itself", () => {
  const people = newPeople(["SEAS", "bob", "Bob", "alice"]);
  expect(people.resolve("seas")).toBe("SEAS");
  expect(people.resolve("SEAS")).toBe("SEAS");
  expect(people.resolve("bob")).toBe("bob");
  expect(people.resolve("BOB")).toBe("BOB");
  expect(people.resolve("nobody")).toBe("nobody");
  people.left("SEAS");
  expect(people.resolve("seas")).toBe("seas");
  people.wrote("SEAS", false);
  expect(people.resolve("seas")).toBe("SEAS");
});

test("names complete in any case: those who are here first, each by recency, then by name", () => {
  const people = newPeople(["Carl", "carol", "casper", "dave"], "carmen", "casper", "carol");
  expect(people.complete("ca")).toEqual(["carol", "casper", "Carl", "carmen"]);
  expect(people.complete("CAR")).toEqual(["carol", "Carl", "carmen"]);
  people.joined("carmen");
  people.left("carol");
  expect(people.complete("ca")).toEqual(["casper", "carmen", "Carl", "carol"]);
});

test("the next partner is the latest one, and then each one before, again and again", () => {
  const people = newPeople([], "a", "b", "c");
  const seen = Array.from({ length: 4 }, () => (people.partner = people.nextPartner()));
  expect(seen).toEqual(["c", "b", "a", "c"]);
  expect(newPeople([]).nextPartner()).toBeNull();
});

/** The lines after each of `count` Tabs. */
function tabs(people: People, line: string, count = 1, cursor = line.length): string[] {
  const completion = new Completion(people);
  let edit = { line, cursor };
  return Array.from({ length: count }, () => {
    edit = completion.next(edit) ?? edit;
    return `${edit.line.slice(0, edit.cursor)}|${edit.line.slice(edit.cursor)}`;
  });
}

test("Tab completes commands in the first word, and names where one is expected or has been begun", () => {
  const people = newPeople(["SEAS", "bob"]);
  expect(tabs(people, "mes")).toEqual(["message |"]);
  expect(tabs(people, "message se")).toEqual(["message SEAS |"]);
  expect(tabs(people, "message ", 3)).toEqual(["message SEAS |", "message bob |", "message SEAS |"]);
  expect(tabs(people, "/WH")).toEqual(["/who |"]);
  expect(tabs(people, "/b", 4)).toEqual(["/broadcast |", "/block |", "/bell |", "/broadcast |"]);
  expect(tabs(people, "/to s")).toEqual(["/to SEAS |"]);
  expect(tabs(people, "/presence o", 2)).toEqual(["/presence off |", "/presence on |"]);
  expect(tabs(people, "xyz")).toEqual(["xyz|"]);
  people.partner = "bob";
  expect(tabs(people, "mes")).toEqual(["mes|"]);
  expect(tabs(people, "ask Se")).toEqual(["ask SEAS |"]);
  expect(tabs(people, "se")).toEqual(["SEAS |"]);
  expect(tabs(people, "/m se now", 1, 5)).toEqual(["/m SEAS |now"]);
});
