import { expect, test } from "bun:test";
import { Accounts } from "../../src/chat/accounts.ts";

test("each of 5,000 users is found by name, and no other name is", () => {
  const accounts = new Accounts();
  for (let i = 0; i < 5000; i++) expect(accounts.add(`user${i}`, "")).not.toBeNull();
  for (let i = 0; i < 5000; i++) expect(accounts.named(`user${i}`)?.name).toBe(`user${i}`);
  for (const name of ["user5000", "user", "User1", "user1 ", ""]) expect(accounts.named(name)).toBeUndefined();
  expect(accounts.all.length).toBe(5000);
});

test("a name cannot be added twice, and names that differ in case are different", () => {
  const accounts = new Accounts();
  const first = accounts.add("bob", "one");
  expect(accounts.add("bob", "two")).toBeNull();
  expect(accounts.named("bob")).toBe(first!);
  expect(first?.password).toBe("one");
  expect(accounts.add("Bob", "three")).not.toBeNull();
});

test("a recalled account is not a user until it is added, and stays the same object", () => {
  const accounts = new Accounts();
  const known = accounts.recall("bob");
  expect(accounts.named("bob")).toBeUndefined();
  expect(accounts.recall("bob")).toBe(known);
  expect(accounts.add("bob", "one")).toBe(known);
  expect(accounts.named("bob")).toBe(known);
  expect(accounts.all).toEqual([known]);
});
