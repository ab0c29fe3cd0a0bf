-- How rare a word is, for telling which words and sentences say most: one row per word of a sample of the catalogue and of
-- the reviews before $as_of. Never published.
--
-- rarity = floor(log2(n_texts / n_with_the_word)), at most 10: whole steps, so that a few more reviews change no
-- sentence's place. A word of a single text is a name or a slip of the keyboard more often than not: in a large sample it
-- counts as one that a hundredth of the texts hold.
-- The sample is the 20,000 items and the 50,000 reviews with the smallest digests of their ids: the same ones every night,
-- but for those that come or go.
with sampled_item as (
    select title, categories, people, substr(description, 1, 4000) as description
    from item
    order by md5(item_id)
    limit 20000
),
sampled_review as (
    select summary, substr(text, 1, 4000) as text
    from review
    where event_timestamp < $as_of
    order by md5(concat(user_id, ' ', item_id)), event_timestamp, summary, text
    limit 50000
),
told as (
    select content_words(concat_ws(
        ' ', title, array_to_string(categories, ' '), array_to_string(people, ' '), description)) as words
    from sampled_item
    union all
    select content_words(concat_ws(' ', summary, text)) as words from sampled_review
),
total as (
    select count(*) as n_texts from told where cardinality(words) > 0
),
counted as (
    select word, count(*) as n from (select unnest(words) as word from told) group by word
)
select
    cast(c.word as varchar) as word,
    cast(case
        when c.n = 1 and t.n_texts >= 1000 then 6
        else least(floor(log2(cast(t.n_texts as double) / cast(c.n as double))), 10.0)
    end as bigint) as rarity
from total as t
cross join counted as c
order by word
